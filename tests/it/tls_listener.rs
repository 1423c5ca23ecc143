//! TLS towards callers, certificates that are renewed, and management on an address of its own.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::support::gateway::{Builder, Gateway, MASTER, signal};
use crate::support::provider::{Gate, Provider, Reply};
use crate::support::tls::{Authority, Pair};
use crate::support::{DEADLINE, ask, ask_streamed, eventually};

/// A folder with a certificate that a gateway shows.
struct Shown {
    folder: tempfile::TempDir,
}

impl Shown {
    fn new(pair: &Pair) -> Self {
        let shown = Self { folder: tempfile::tempdir().expect("a folder") };
        shown.put(pair);
        shown
    }

    fn put(&self, pair: &Pair) {
        std::fs::write(self.path("cert.pem"), &pair.cert).expect("written");
        std::fs::write(self.path("key.pem"), &pair.key).expect("written");
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn config(&self) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("tls_cert_path: {cert}\ntls_key_path: {key}\n")
    }
}

async fn connect(
    to: SocketAddr,
    client: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(client.clone()).connect(name, TcpStream::connect(to).await?).await
}

/// Sends one request on a connection and reads its answer, which has a length.
async fn exchange(stream: &mut TlsStream<TcpStream>, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await? {
            0 => break,
            n => answer.extend_from_slice(&piece[..n]),
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if length.is_some_and(|length| body.len() >= length) {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A request, and what the connection is to be told.
fn request(method: &str, path: &str, key: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// The status of one request on a connection of its own.
async fn status(
    to: SocketAddr,
    client: &Arc<ClientConfig>,
    (method, path, key, body): (&str, &str, &str, &str),
) -> std::io::Result<u16> {
    let mut stream = connect(to, client).await?;
    let answer = exchange(&mut stream, &request(method, path, key, body)).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other(format!("no answer: {answer:?}")))
}

/// The certificate that a new connection is shown.
async fn shown(gateway: &Gateway, client: &Arc<ClientConfig>) -> Vec<u8> {
    let stream = connect(gateway.addr(), client).await.expect("a connection");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_speak_tls() {
    let authority = Authority::new();
    let pair = authority.pair("localhost", None);
    let files = Shown::new(&pair);
    let provider = Provider::streams(["ok"]);
    let start = Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0);
    let gateway = start.config(&files.config()).config("enable_metrics: true").await;
    assert!(gateway.log().contains("tls        "), "the first screen says it");
    let client = authority.client(None);
    let to = gateway.addr();

    let user = json!({"user_id": "u"}).to_string();
    let mut stream = connect(to, &client).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "and not HTTP/2");
    let made = exchange(&mut stream, &request("POST", "/v1/keys", MASTER, &user)).await.unwrap();
    let made: serde_json::Value =
        serde_json::from_str(made.split_once("\r\n\r\n").unwrap().1).unwrap();
    let key = made["key"].as_str().unwrap();
    let chat = request("POST", "/v1/chat/completions", key, &ask().to_string());
    let answer = exchange(&mut stream, &chat).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body = ask_streamed().to_string();
    let mut chat = request("POST", "/v1/chat/completions", key, &body);
    chat = chat.replacen("Host:", "Connection: close\r\nHost:", 1);
    let answer = exchange(&mut stream, &chat).await.unwrap();
    assert!(answer.contains("data: [DONE]"), "{answer}");

    let mut plain = TcpStream::connect(to).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard).await;
    assert!(!heard.starts_with(b"HTTP"), "nothing is said without TLS");

    let mut stream = connect(to, &client).await.unwrap();
    let metrics = exchange(&mut stream, &request("GET", "/metrics", "", "")).await.unwrap();
    let line = format!("gateway_tls_certificate_expiry_seconds {}", pair.not_after);
    assert!(metrics.contains(&line), "{line} in {metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_under_open_connections() {
    let authority = Authority::new();
    let [first, second, third] = [(); 3].map(|()| authority.pair("localhost", None));
    let files = Shown::new(&first);
    let gateway = Gateway::start().config(&files.config()).config("reload_interval_s: 0").await;
    let client = authority.client(None);
    let mut open = connect(gateway.addr(), &client).await.unwrap();
    let health = request("GET", "/health", "", "");
    assert!(exchange(&mut open, &health).await.unwrap().starts_with("HTTP/1.1 200"));

    files.put(&second);
    assert_eq!(shown(&gateway, &client).await, first.der, "nobody said so");
    gateway.signal("HUP");
    eventually("the new certificate", async || {
        (shown(&gateway, &client).await == second.der).then_some(())
    })
    .await;
    assert!(exchange(&mut open, &health).await.unwrap().starts_with("HTTP/1.1 200"), "it goes on");
    eventually("a line", async || {
        gateway.log().contains("tls: another certificate, until 4096-01-01").then_some(())
    })
    .await;

    // A key of another certificate, half a file, one that is over: each is refused, and the old pair serves on.
    let mixed = Pair { key: third.key.clone(), ..third_with(&second) };
    let half = Pair { cert: third.cert[..200].to_owned(), ..third_with(&third) };
    let over = authority.pair("localhost", Some(2020));
    for (pair, why) in [
        (&mixed, "the key and the certificate of tls_cert_path do not fit"),
        (&half, "cert.pem"),
        (&over, "expired at 2020-01-01"),
    ] {
        files.put(pair);
        let before = gateway.log().len();
        gateway.signal("HUP");
        eventually(why, async || {
            let log = gateway.log();
            let line = log[before..].lines().find(|line| line.contains("was not reloaded"))?;
            let after = &log[before..];
            assert!(after.contains(why), "{why} in {line}");
            Some(())
        })
        .await;
        assert_eq!(shown(&gateway, &client).await, second.der, "{why}");
    }
    assert!(exchange(&mut open, &health).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(!gateway.log().contains("PRIVATE KEY"), "no key is ever logged");
}

fn third_with(pair: &Pair) -> Pair {
    Pair { cert: pair.cert.clone(), key: pair.key.clone(), der: pair.der.clone(), not_after: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_file_is_seen_by_itself() {
    let authority = Authority::new();
    let [first, second] = [(); 2].map(|()| authority.pair("localhost", None));
    let files = Shown::new(&first);
    let gateway = Gateway::start().config(&files.config()).config("reload_interval_s: 1").await;
    let client = authority.client(None);
    assert_eq!(shown(&gateway, &client).await, first.der);
    files.put(&second);
    eventually("the new certificate", async || {
        (shown(&gateway, &client).await == second.der).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_asks_over_tls() {
    let files = Shown::new(&Authority::new().pair("elsewhere.test", Some(2020)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let start = Gateway::start()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .config(&files.config());
    let gateway = start.await;
    // Again and again, and not only once.
    let mut alive = 0;
    while alive < 3 {
        let mut bytes = [0; 4096];
        let got = socket.recv(&mut bytes).expect("a message in time");
        alive += usize::from(bytes[..got].starts_with(b"WATCHDOG=1"));
    }
    assert!(!gateway.log().contains("handshake error"), "it looks at itself as callers do");
}

/// What `otari check` says of this configuration, and its exit code.
fn checked(start: Builder, yaml: &str) -> (i32, String) {
    let start = start.config(yaml);
    let (_, file) = start.write();
    let output = Gateway::run(&["check", file.to_str().unwrap()]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_with_its_place() {
    let authority = Authority::new();
    let (pair, other) = (authority.pair("localhost", None), authority.pair("localhost", None));
    let files = Shown::new(&pair);
    let written = |name: &str, text: &str| {
        let path = files.path(name);
        std::fs::write(Path::new(&path), text).unwrap();
        path
    };
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let other_key = written("other.pem", &other.key);
    let empty = written("empty.pem", "");
    let both = |cert: &str, key: &str| format!("tls_cert_path: {cert}\ntls_key_path: {key}");
    for (yaml, why) in [
        (both("/none.pem", &key), "tls_cert_path: /none.pem cannot be read"),
        (both(&cert, "/none.pem"), "tls_key_path: /none.pem cannot be read"),
        (both(&empty, &key), "holds no certificate"),
        (both(&cert, &empty), "holds no private key"),
        (both(&cert, &other_key), "do not fit"),
        (format!("tls_cert_path: {cert}"), "Set tls_key_path"),
        (format!("tls_key_path: {key}"), "Set tls_cert_path"),
        ("management_address: nowhere".into(), "Write host:port"),
        ("management_client_ca_path: /none.pem".into(), "has no effect without management_address"),
        (format!("management_address: 127.0.0.1:1\nmanagement_client_ca_path: {cert}"), "need TLS"),
    ] {
        let (code, said) = checked(Gateway::start(), &yaml);
        assert!(code == 78 && said.contains(why), "{yaml}: {code} {said}");
        assert!(said.contains("config.yml:"), "its place: {said}");
    }
    let over = authority.pair("localhost", Some(2020));
    files.put(&over);
    let (code, said) = checked(Gateway::start(), &both(&cert, &key));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the certificate expired at 2020-01-01"), "{said}");
}

/// Where management is, by the first screen.
fn management(gateway: &Gateway) -> SocketAddr {
    let log = gateway.log();
    let line = log.lines().find_map(|line| line.split_once("management http")).expect("a line").1;
    let from = line.find("127.0.0.1:").expect("an address");
    let end = line[from..].find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap();
    line[from..from + end].parse().expect("an address")
}

const MANAGED: &str = "management_address: 127.0.0.1:0\nenable_metrics: true\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn management_asks_for_a_certificate_of_its_own_authority() {
    let (authority, operators, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let files = Shown::new(&authority.pair("localhost", None));
    let ca = operators.file();
    let ca = format!("management_client_ca_path: {}\n", ca.path().display());
    let gateway = Gateway::start().config(&files.config()).config(MANAGED).config(&ca).await;
    let to = management(&gateway);
    let operator = authority.client(Some(&operators.pair("ops", None)));
    let users = ("GET", "/v1/users", MASTER, "");
    assert_eq!(status(to, &operator, users).await.unwrap(), 200);
    assert_eq!(status(to, &operator, ("GET", "/v1/users", "wrong", "")).await.unwrap(), 401);
    for refused in [
        authority.client(None),
        authority.client(Some(&strangers.pair("ops", None))),
        authority.client(Some(&operators.pair("ops", Some(2020)))),
    ] {
        status(to, &refused, users).await.expect_err("no certificate, no answer");
    }
    let nobody = authority.client(None);
    assert_eq!(status(gateway.addr(), &nobody, ("GET", "/health", "", "")).await.unwrap(), 200);
    assert_eq!(status(gateway.addr(), &nobody, users).await.unwrap(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn management_is_nowhere_else() {
    let provider = Provider::streams(["ok"]);
    let start = Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0);
    let gateway = start.config(MANAGED).await;
    let manage = management(&gateway);
    let at = |path: &str| format!("http://{manage}{path}");
    let asked = async |url: String, post: Option<serde_json::Value>, key: &str| {
        let request = match &post {
            None => gateway.http().get(url),
            Some(body) => gateway
                .http()
                .post(url)
                .header("content-type", "application/json")
                .body(body.to_string()),
        };
        let answer = request.bearer_auth(key).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let (status, made) = asked(at("/v1/keys"), Some(json!({"user_id": "u"})), MASTER).await;
    assert_eq!(status, 200, "{made}");
    let key = serde_json::from_str::<serde_json::Value>(&made).unwrap()["key"].clone();
    let key = key.as_str().unwrap();

    for route in otari::routes::ROUTES {
        let is_get = route.method == reqwest::Method::GET;
        let is_management = route.credential == otari::routes::Credential::Master;
        let path = route.template.replace("{id}", "x").replace("{name}", "x");
        let path = path.replace("{model_key...}", "p:m").replace("{model_id...}", "p:m");
        let path = path.replace("{tool}", "x");
        let method = route.method.clone();
        let there = |base: String| {
            let request = gateway.http().request(method.clone(), base).bearer_auth(MASTER);
            async move { request.send().await.expect("an answer").status().as_u16() }
        };
        if is_management || path == "/metrics" {
            assert_eq!(there(gateway.url(&path)).await, 404, "{} {path}, public", route.method);
        } else if route.credential == otari::routes::Credential::Key && !is_get {
            assert_eq!(there(at(&path)).await, 404, "{} {path}, management", route.method);
        }
    }
    assert_eq!(asked(at("/metrics"), None, "").await.0, 200);
    assert_eq!(asked(at("/v1/pricing"), None, MASTER).await.0, 200);
    for url in [at("/health"), gateway.url("/health")] {
        assert_eq!(asked(url, None, "").await.0, 200);
    }
    let chat = "/v1/chat/completions";
    assert_eq!(asked(gateway.url(chat), Some(ask()), key).await.0, 200);
    let (status, refusal) = asked(at(chat), Some(ask()), key).await;
    assert!(status == 404 && refusal.contains("nearest path is /v1/settings"), "{refusal}");
    let (status, refusal) = asked(gateway.url("/v1/user"), None, MASTER).await;
    assert!(status == 404 && !refusal.contains("/v1/users"), "not even as a hint: {refusal}");
    assert_eq!(provider.count(), 1);
}

/// Whoever learns the master key and reaches only callers' address can do nothing with it, nor find out that it is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_key_is_nobodys_where_callers_are() {
    let provider = Provider::streams(["ok"]);
    let start = Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0);
    let gateway = start.config(MANAGED).config("auth_failures_per_minute: 1000").await;
    let mut body = ask();
    body["user"] = json!("u");
    for route in otari::routes::ROUTES {
        let surface = otari::routes::Surface::Standalone;
        if route.credential != otari::routes::Credential::Key || !surface.has(route) {
            continue;
        }
        let path = route.template.replace("{id}", "x").replace("{tool}", "x");
        let path = path.replace("{model_key...}", "p:m").replace("{model_id...}", "p:m");
        let of = async |credential: &str| {
            let request = gateway.http().request(route.method.clone(), gateway.url(&path));
            let request =
                request.bearer_auth(credential).header("content-type", "application/json");
            let answer = request.body(body.to_string()).send().await.expect("an answer");
            let status = answer.status().as_u16();
            let mut said: serde_json::Value = answer.json().await.expect("JSON");
            said.as_object_mut().expect("an object").remove("request_id");
            (status, said)
        };
        let (master, wrong) = (of(MASTER).await, of("otari-mk-no-such-key-at-all-0").await);
        assert_eq!(master.0, 401, "{} {path}: {}", route.method, master.1);
        assert_eq!(master, wrong, "{} {path}: as one that nobody has", route.method);
    }
    assert_eq!(provider.count(), 0);
    let manage = management(&gateway);
    let read = gateway.http().get(format!("http://{manage}/v1/pricing/p:m")).bearer_auth(MASTER);
    assert_eq!(read.send().await.expect("an answer").status(), 200, "where it is managed");
}

/// Reads on until there is such a word.
async fn until(stream: &mut TlsStream<TcpStream>, heard: &mut String, word: &str) {
    while !heard.contains(word) {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.expect("a whole stream");
        assert!(n > 0, "it ended before {word}: {heard}");
        heard.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
}

/// A new process takes over both addresses, with the certificates and the authority that are there by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_takes_both_addresses_with_it() {
    let (authority, operators) = (Authority::new(), Authority::new());
    let [first, second] = [(); 2].map(|()| authority.pair("localhost", None));
    let files = Shown::new(&first);
    let ca = operators.file();
    let ca = format!("management_client_ca_path: {}\n", ca.path().display());
    let gate = Gate::closed();
    let held = gate.clone();
    let provider =
        Provider::start(move |request| Reply::chat(request, &["Hel", "lo"]).gated(1, &held));
    let start = Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0);
    let start = start.config(&files.config()).config(MANAGED).config(&ca);
    let mut gateway = start.config("drain_s: 60\nreload_interval_s: 0").await;
    let (to, manage, old) = (gateway.addr(), management(&gateway), gateway.pid());
    let caller = authority.client(None);
    let operator = authority.client(Some(&operators.pair("ops", None)));

    let mut managed = connect(manage, &operator).await.unwrap();
    let user = json!({"user_id": "u"}).to_string();
    let made = exchange(&mut managed, &request("POST", "/v1/keys", MASTER, &user)).await.unwrap();
    let made: serde_json::Value =
        serde_json::from_str(made.split_once("\r\n\r\n").unwrap().1).unwrap();
    let body = ask_streamed().to_string();
    let chat = request("POST", "/v1/chat/completions", made["key"].as_str().unwrap(), &body);
    let (mut stream, mut heard) = (connect(to, &caller).await.unwrap(), String::new());
    stream.write_all(chat.as_bytes()).await.unwrap();
    until(&mut stream, &mut heard, "Hel").await;

    files.put(&second);
    gateway.upgrade().await;
    // In the moment of the handover the old process may take one more.
    eventually("the certificate of the new process", async || {
        (shown(&gateway, &caller).await == second.der).then_some(())
    })
    .await;
    let users = ("GET", "/v1/users", MASTER, "");
    assert_eq!(status(to, &caller, ("GET", "/health", "", "")).await.unwrap(), 200);
    assert_eq!(status(to, &caller, users).await.unwrap(), 404, "management is nowhere else");
    assert_eq!(status(manage, &operator, users).await.unwrap(), 200);
    status(manage, &caller, users).await.expect_err("no certificate, no answer");
    assert!(signal(old, "0"), "the old process still has its stream");

    gate.open(100);
    until(&mut stream, &mut heard, "data: [DONE]").await;
    assert!(heard.contains("lo") && !heard.contains("error"), "{heard}");
    assert!(gateway.ended().await.success());
    eventually("its row", async || {
        let mut managed = connect(manage, &operator).await.expect("a connection");
        let asked = request("GET", "/v1/usage/count", MASTER, "");
        let said = exchange(&mut managed, &asked).await.expect("an answer");
        said.contains(r#""total":1"#).then_some(())
    })
    .await;
}
