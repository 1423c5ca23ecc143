//! Where a caller cannot send the gateway: its own machine's neighbours, however they are spelt.

use serde_json::json;

use super::{Scene, ways};
use crate::support::format::both;
use crate::support::gateway::Gateway;
use crate::support::mcp::{Real, entry};
use crate::support::model::{calls, model, says};
use crate::support::provider::Provider;

fn adding() -> Provider {
    model(|asked| match asked.round {
        0 => calls([("add", json!({"a": 1, "b": 1}))]),
        _ => says("ok"),
    })
}

/// What is refused whatever the configuration says of loopback: the URL, the host as it is shown, its address, and why.
const FORBIDDEN: [(&str, &str, &str, &str); 20] = [
    (
        "http://169.254.169.254/latest/meta-data/",
        "169.254.169.254",
        "169.254.169.254",
        "link-local",
    ),
    ("http://10.0.0.1/mcp", "10.0.0.1", "10.0.0.1", PRIVATE),
    ("https://192.168.1.1:8443/", "192.168.1.1", "192.168.1.1", PRIVATE),
    ("http://172.16.0.9/", "172.16.0.9", "172.16.0.9", PRIVATE),
    ("http://100.64.0.1/", "100.64.0.1", "100.64.0.1", RESERVED),
    ("http://100.100.100.200/", "100.100.100.200", "100.100.100.200", RESERVED),
    ("http://192.88.99.1/", "192.88.99.1", "192.88.99.1", RESERVED),
    ("http://0.0.0.0:8000/", "0.0.0.0", "0.0.0.0", "unspecified (0.0.0.0/::)"),
    ("http://224.0.0.1/", "224.0.0.1", "224.0.0.1", "multicast"),
    ("http://255.255.255.255/", "255.255.255.255", "255.255.255.255", PRIVATE),
    ("http://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1", "::ffff:10.0.0.1", PRIVATE),
    ("http://[::ffff:a9fe:a9fe]/", "::ffff:169.254.169.254", "::ffff:169.254.169.254", PRIVATE),
    ("http://[fe80::1]/", "fe80::1", "fe80::1", "link-local"),
    ("http://[fd00:ec2::254]/", "fd00:ec2::254", "fd00:ec2::254", PRIVATE),
    ("http://[64:ff9b::a00:1]/", "64:ff9b::a00:1", "64:ff9b::a00:1", RESERVED),
    ("http://[2002:a00:1::]/", "2002:a00:1::", "2002:a00:1::", PRIVATE),
    // As numbers, in hexadecimal, in octal, shortened, with a dot at the end, in wide characters.
    ("http://2852039166/", "169.254.169.254", "169.254.169.254", "link-local"),
    ("http://0xA9FEA9FE/", "169.254.169.254", "169.254.169.254", "link-local"),
    ("http://0251.0376.0251.0376/", "169.254.169.254", "169.254.169.254", "link-local"),
    ("http://10.1/", "10.0.0.1", "10.0.0.1", PRIVATE),
];

const PRIVATE: &str = "in a private range (RFC 1918 / ULA)";
const RESERVED: &str = "in a reserved range";

fn sentence(host: &str, address: &str, why: &str) -> String {
    format!(
        "MCP server host '{host}' resolves to {address} which is {why}; rejecting to prevent SSRF. Set \
         OTARI_MCP_ALLOW_PRIVATE_HOSTS=true to override."
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_leads_inside() {
    let provider = adding();
    let scene = Scene::new(&provider).await;
    for (url, host, address, why) in FORBIDDEN {
        for way in ways().filter(|way| way.model == "o:m") {
            let seen = scene.call(way, json!({"mcp_servers": [entry("s", url)]})).await;
            let said = Some(sentence(host, address, why));
            assert_eq!((seen.status, seen.error), (400, said), "{url} {way:?}: {}", seen.raw);
        }
        // The rules for services that check are the same ones.
        let guard = json!({"guardrails": [{"profile": "p", "url": url}]});
        let way = ways().next().expect("some");
        let seen = scene.call(way, guard).await;
        assert_eq!((seen.status, seen.error), (400, Some(sentence(host, address, why))), "{url}");
    }
    assert_eq!(provider.count(), 0);
    assert!(scene.gateway.settled("u").await.abs() < 1e-12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_address_is_refused_by_name() {
    let provider = adding();
    let scene = Scene::new(&provider).await;
    let way = ways().next().expect("some");
    let unresolved = |host: &str| {
        format!(
            "MCP server host '{host}' could not be resolved at validation time; rejecting to avoid DNS-rebinding (a \
             later lookup could resolve to a private address). Set OTARI_MCP_ALLOW_PRIVATE_HOSTS=true to override."
        )
    };
    for (url, said) in [
        ("ftp://a.example/", "MCP server URL must use http or https, got 'ftp'".to_owned()),
        ("FILE:///etc/passwd", "MCP server URL must use http or https, got 'file'".to_owned()),
        (
            "gopher://127.0.0.1:6379/_x",
            "MCP server URL must use http or https, got 'gopher'".to_owned(),
        ),
        ("a.example/mcp", "MCP server URL must use http or https, got ''".to_owned()),
        ("http://", "MCP server URL must include a hostname".to_owned()),
        ("http://No-Such-Host.invalid/mcp", unresolved("no-such-host.invalid")),
    ] {
        let seen = scene.call(way, json!({"mcp_servers": [entry("s", url)]})).await;
        assert_eq!((seen.status, seen.error), (400, Some(said)), "{url}");
    }
    let token = "hunter2-hunter2";
    for url in ["http://127.0.0.1:1/", "https://10.0.0.1/", "ftp://x/"] {
        let server = json!({"name": "s", "url": url, "authorization_token": token});
        let seen = scene.call(way, json!({"mcp_servers": [server]})).await;
        assert!(seen.status == 400 && !seen.raw.contains(token), "{}", seen.raw);
    }
    assert!(!scene.gateway.log().contains(token));
    // One bad server among good ones, and nobody is spoken to.
    let good = Real::new("json", "beside-a-bad-one");
    let list = json!([entry("a", &good.url()), entry("b", "http://10.0.0.1/")]);
    let seen = scene.call(way, json!({"mcp_servers": list})).await;
    assert_eq!((seen.status, good.asked().len(), provider.count()), (400, 0, 0), "{}", seen.raw);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machine_is_open_unless_it_is_closed() {
    let provider = adding();
    let server = Real::new("json", "loopback");
    let port = server
        .url()
        .split(':')
        .nth(2)
        .and_then(|rest| rest.split('/').next())
        .expect("a port")
        .to_owned();
    let path = server.path();
    let way = ways().next().expect("some");
    let spelt =
        ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"];
    let open = Scene::new(&provider).await;
    for host in spelt {
        // What the SDK's server says of a host that it does not know is its own affair.
        let seen = open
            .call(way, json!({"mcp_servers": [entry("s", &format!("http://{host}:{port}{path}"))]}))
            .await;
        assert_ne!(seen.status, 400, "{host}: {}", seen.raw);
    }
    assert!(server.count("initialize") >= 2);
    let before = server.asked().len();
    let closed =
        Scene::with(&provider, |start| start.env("GATEWAY_MCP_ALLOW_LOOPBACK", "no")).await;
    for host in spelt.into_iter().chain(["[::1]", "127.255.0.1"]) {
        let seen = closed
            .call(way, json!({"mcp_servers": [entry("s", &format!("http://{host}:{port}{path}"))]}))
            .await;
        let said = seen.error.unwrap_or_default();
        assert!(
            seen.status == 400 && said.contains("which is loopback; rejecting"),
            "{host}: {}",
            seen.raw
        );
    }
    assert_eq!(server.asked().len(), before);
    // All is open where the operator says so; schemes and tokens are looked at all the same.
    let all = Scene::with(&provider, |start| {
        start.config("mcp_allow_private_hosts: true\nmcp_allow_loopback: false")
    });
    let all = all.await;
    all.call(way, super::servers(&server)).await.good();
    let seen = all.call(way, json!({"mcp_servers": [entry("s", "ftp://127.0.0.1/")]})).await;
    assert_eq!(seen.status, 400, "{}", seen.raw);
}

/// A name is what its addresses are: all of them are judged, and what one of them forbids is not gone to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_leads_inside() {
    let Some(start) = Gateway::start().hosts(
        "10.1.2.3 inside.test\n169.254.169.254 metadata.test\n100.64.0.9 carrier.test\nfd00::7 six.test\n\
         ::ffff:10.1.2.3 mapped.test\n8.8.8.8 mixed.test\n10.1.2.3 mixed.test\n127.0.0.1 home.test localhost\n",
    ) else {
        eprintln!("skipped: this system does not allow namespaces to whoever runs the tests");
        return;
    };
    let provider = adding();
    let gateway = both(start, &provider).await;
    let key = gateway.key("u").await;
    let scene = Scene { gateway, key };
    for (host, address, why) in [
        ("inside.test", "10.1.2.3", PRIVATE),
        ("INSIDE.test", "10.1.2.3", PRIVATE),
        ("metadata.test", "169.254.169.254", "link-local"),
        ("carrier.test", "100.64.0.9", RESERVED),
        ("six.test", "fd00::7", PRIVATE),
        ("mixed.test", "10.1.2.3", PRIVATE),
    ] {
        let url = format!("http://{host}:8080/mcp");
        let said = Some(sentence(&host.to_lowercase(), address, why));
        for fields in [
            json!({"mcp_servers": [entry("s", &url)]}),
            json!({"guardrails": [{"profile": "p", "url": url}]}),
        ] {
            let way = ways().next().expect("some");
            let seen = scene.call(way, fields).await;
            assert_eq!((seen.status, seen.error), (400, said.clone()), "{host}: {}", seen.raw);
        }
    }
    let way = ways().next().expect("some");
    let mapped = json!({"mcp_servers": [entry("s", "http://mapped.test/")]});
    let seen = scene.call(way, mapped).await;
    let said = seen.error.unwrap_or_default();
    assert!(seen.status == 400 && said.contains(&format!("which is {PRIVATE}")), "{}", seen.raw);
    assert_eq!(provider.count(), 0);
    // The file is read: this name leads to a server, by its address. What the SDK says of the name is its own affair.
    let server = Real::new("json", "by-name");
    let url = server.url().replace("127.0.0.1", "home.test");
    scene.call(way, json!({"mcp_servers": [entry("s", &url)]})).await;
    assert_eq!(server.count("initialize"), 1);
}

/// The names of this machine lead to itself, however they are written: closed is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machines_names_are_closed_with_it() {
    let provider = adding();
    let server = Real::new("json", "names");
    let scene = Scene::with(&provider, |start| start.config("mcp_allow_loopback: false")).await;
    let file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = file.lines().map(|line| line.split('#').next().unwrap_or_default());
    let names = lines.filter(|line| line.starts_with("127.") || line.starts_with("::1"));
    let names: Vec<&str> = names.flat_map(|line| line.split_whitespace().skip(1)).collect();
    let way = ways().next().expect("some");
    for host in names.into_iter().chain(["localhost", "LocalHost", "localhost.", "x.localhost"]) {
        let url = server.url().replace("127.0.0.1", host);
        let seen = scene.call(way, json!({"mcp_servers": [entry("s", &url)]})).await;
        let said = seen.error.unwrap_or_default();
        let is_closed =
            said.contains("which is loopback; rejecting") || said.contains("could not be resolved");
        assert!(seen.status == 400 && is_closed, "{host}: {}", seen.raw);
    }
    assert_eq!((server.asked().len(), provider.count()), (0, 0));
}
