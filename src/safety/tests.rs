//! Addresses judged before anybody connects, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use otari_filters::addresses::Rules;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Admitted, Fetch, Safety, Unfetched, Url};

const HOW: Fetch =
    Fetch { within: Duration::from_secs(5), max_bytes: 1000, redirects: 2, user_agent: "test" };

/// Pages as on this machine, without which nothing can be tested.
fn near() -> Rules {
    Rules { allow_loopback: true, ..Rules::pages(false) }
}

/// A server that gives these answers, one a connection, and closes.
async fn server(answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut piece = [0; 4096];
            let read = socket.read(&mut piece).await.unwrap();
            assert!(String::from_utf8_lossy(&piece[..read]).contains("user-agent: test"));
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

fn page(body: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: Text/HTML; charset=utf-8\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

/// Runs a test on one thread.
fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn urls_are_judged_before_anybody_connects() {
    on_one_thread(async {
        let safety = Safety::default();
        let rules = Rules::servers(false, false);
        for (url, token, part) in [
            ("ftp://example.com", false, "must use http or https, got 'ftp'"),
            ("file:///etc/passwd", false, "must use http or https, got 'file'"),
            ("example.com/mcp", false, "must use http or https, got ''"),
            ("http://", false, "must include a hostname"),
            ("https://[::1", false, "must include a hostname"),
            ("http://8.8.8.8/mcp", true, "must use https when an authorization_token is set"),
            (
                "http://127.0.0.1/",
                false,
                "host '127.0.0.1' resolves to 127.0.0.1 which is loopback",
            ),
            ("http://127.1/", false, "which is loopback"),
            ("http://2130706433/", false, "which is loopback"),
            ("http://0x7f.0.0.1/", false, "which is loopback"),
            ("http://017700000001/", false, "which is loopback"),
            ("http://[::ffff:127.0.0.1]/", false, "which is loopback"),
            ("http://[::1]:99/", false, "host '::1' resolves to ::1 which is loopback"),
            ("http://LOCALHOST/", false, "host 'localhost' resolves to"),
            ("http://169.254.169.254/latest/meta-data", false, "which is link-local"),
            ("http://[fd00:ec2::254]/", false, "which is in a private range"),
            ("http://100.100.100.200/", false, "which is in a reserved range"),
            ("http://[64:ff9b::a9fe:a9fe]/", false, "which is in a reserved range"),
            ("https://user@10.0.0.1\\@example.com/", false, "10.0.0.1"),
            ("https://nowhere.invalid/", false, "could not be resolved at validation time"),
        ] {
            let refused = safety.admit(&rules, url, token).await.unwrap_err().to_string();
            assert!(refused.contains(part), "{url}: {refused}");
        }
        let public = safety.admit(&rules, " https://8.8.8.8/mcp ", true).await.unwrap();
        assert_eq!(public.addresses, ["8.8.8.8:443".parse::<SocketAddr>().unwrap()]);
        let lifted = Rules::servers(true, false);
        let inner = safety.admit(&lifted, "http://nowhere.invalid:8080/", false).await.unwrap();
        assert!(inner.addresses.is_empty());
    });
}

#[test]
fn the_address_that_was_judged_is_the_one_that_is_dialled() {
    on_one_thread(async {
        let address = server(vec![page("pinned")]).await;
        let url = Url::parse(&format!("http://nowhere.invalid:{}/", address.port())).unwrap();
        let admitted = Admitted { url: url.clone(), addresses: vec![address] };
        let client = Safety::default().client(&admitted).unwrap();
        let request = client.get(url).header("user-agent", "test");
        assert_eq!(request.send().await.unwrap().text().await.unwrap(), "pinned");
    });
}

#[test]
fn each_redirect_is_judged() {
    on_one_thread(async {
        let safety = Safety::default();
        let to = server(vec![redirect("/b"), page("here")]).await;
        let found = safety.fetch(&near(), &format!("http://{to}/a"), &HOW).await.unwrap();
        assert_eq!((found.url.path(), &found.bytes[..]), ("/b", &b"here"[..]));
        assert_eq!(found.mime.as_deref(), Some("text/html"));
        for (location, part) in [
            ("http://169.254.169.254/latest", "link-local"),
            ("//10.0.0.1/", "private range"),
            ("http://[::ffff:a9fe:a9fe]/", "private range"),
            ("file:///etc/passwd", "got 'file'"),
        ] {
            let to = server(vec![redirect(location)]).await;
            let refused = safety.fetch(&near(), &format!("http://{to}/"), &HOW).await.unwrap_err();
            assert!(refused.to_string().contains(part), "{location}: {refused}");
            assert!(matches!(refused, Unfetched::Forbidden(_)));
        }
        let to = server(vec![redirect("/"); 3]).await;
        let refused = safety.fetch(&near(), &format!("http://{to}/"), &HOW).await.unwrap_err();
        assert_eq!(refused, Unfetched::Redirects);
        let refused = safety.fetch(&Rules::pages(false), &format!("http://{to}/"), &HOW).await;
        assert!(refused.unwrap_err().to_string().contains("loopback"), "never a page");
    });
}

#[test]
fn pages_have_a_size_and_a_time() {
    on_one_thread(async {
        let safety = Safety::default();
        let to = server(vec![page(&"x".repeat(5000))]).await;
        let found = safety.fetch(&near(), &format!("http://{to}/"), &HOW).await.unwrap();
        assert_eq!(found.bytes.len(), HOW.max_bytes);
        let to = server(vec!["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into()]).await;
        let refused = safety.fetch(&near(), &format!("http://{to}/"), &HOW).await.unwrap_err();
        assert_eq!(refused, Unfetched::Status(404));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let soon = Fetch { within: Duration::from_millis(100), ..HOW };
        let refused = safety.fetch(&near(), &url, &soon).await.unwrap_err();
        assert_eq!(refused, Unfetched::Timeout);
    });
}
