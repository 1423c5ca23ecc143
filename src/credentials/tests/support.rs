//! Issuers on loopback that answer as they are told and remember what they were asked; a clock by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use otari_filters::providers;
use otari_filters::secret::Secret;
use otari_filters::upstream::{Draft, Upstream};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::config::Ambient;
use crate::credentials::{Clock, CredentialFailure, Credentials, Pace};

/// What an issuer was asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// `POST /path`.
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A field of a form.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.body.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// What an issuer does.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Text(u16, String),
    /// Without the time to say anything.
    Hang,
    /// This many bytes.
    Huge(usize),
    Redirect(String),
}

pub(super) fn ok(text: impl Into<String>) -> Reply {
    Reply::Text(200, text.into())
}

/// An OAuth answer.
pub(super) fn token(token: &str, life_s: u64) -> Reply {
    ok(format!(r#"{{"access_token":"{token}","expires_in":{life_s},"token_type":"Bearer"}}"#))
}

type Script = Box<dyn FnMut(&Asked, usize) -> Reply + Send>;

/// An issuer of credentials.
pub(super) struct Issuer {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Arc<Mutex<Script>>,
    _task: JoinSet<()>,
}

impl Issuer {
    /// `script`: the answer to a question and how many came before it.
    pub(super) async fn new(script: impl FnMut(&Asked, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let mut task = JoinSet::new();
        let (all, by) = (asked.clone(), script.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, all.clone(), by.clone()));
            }
        });
        Self { address, asked, script, _task: task }
    }

    /// Always the same.
    pub(super) async fn saying(reply: Reply) -> Self {
        Self::new(move |_, _| reply.clone()).await
    }

    pub(super) fn now_says(&self, reply: Reply) {
        *self.script.lock() = Box::new(move |_, _| reply.clone());
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.asked.lock().len()
    }
}

async fn serve(mut stream: TcpStream, all: Arc<Mutex<Vec<Asked>>>, script: Arc<Mutex<Script>>) {
    let mut bytes = Vec::new();
    let end = loop {
        let mut piece = [0; 4096];
        let Ok(n) = stream.read(&mut piece).await else { return };
        if n == 0 {
            return;
        }
        bytes.extend_from_slice(&piece[..n]);
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(end);
    while body.len() < length {
        let mut piece = [0; 4096];
        let Ok(n) = stream.read(&mut piece).await else { return };
        body.extend_from_slice(&piece[..n]);
    }
    let asked = Asked { line, headers, body: String::from_utf8_lossy(&body).into_owned() };
    let reply = {
        let mut all = all.lock();
        all.push(asked.clone());
        (script.lock())(&asked, all.len() - 1)
    };
    let (status, location, text) = match reply {
        Reply::Text(status, text) => (status, String::new(), text),
        Reply::Hang => return std::future::pending().await,
        Reply::Huge(size) => (200, String::new(), "x".repeat(size)),
        Reply::Redirect(to) => (307, format!("location: {to}\r\n"), String::new()),
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{location}connection: close\r\n\r\n{text}",
        text.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// 2026-01-01T00:00:00Z, or what a test makes of it.
#[derive(Clone)]
pub(super) struct HandClock(Arc<AtomicI64>);

/// Seconds since 1970 at which a test's clock begins.
pub(super) const START_S: i64 = 1_767_225_600;

impl HandClock {
    pub(super) fn advance_s(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

/// Credentials with their service, fast.
pub(super) struct Desk {
    pub(super) credentials: Credentials,
    pub(super) clock: HandClock,
    pub(super) service: JoinSet<()>,
}

/// As fast as a test can be, and as slow as a busy machine needs.
pub(super) fn fast() -> Pace {
    Pace {
        wait: Duration::from_secs(10),
        fetch: Duration::from_secs(9),
        look: Duration::from_millis(10),
        ..Pace::default()
    }
}

impl Desk {
    pub(super) fn new(ambient: Option<Ambient>) -> Self {
        Self::with(ambient, fast())
    }

    pub(super) fn with(ambient: Option<Ambient>, pace: Pace) -> Self {
        let mut desk = Self::without_service(ambient, pace);
        let credentials = desk.credentials.clone();
        desk.service.spawn(async move { credentials.run().await });
        desk
    }

    pub(super) fn without_service(ambient: Option<Ambient>, pace: Pace) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock = HandClock(Arc::new(AtomicI64::new(START_S * 1_000_000)));
        let by: Clock = {
            let clock = clock.clone();
            Arc::new(move || clock.0.load(Ordering::SeqCst))
        };
        Self { credentials: Credentials::with(ambient, pace, by), clock, service: JoinSet::new() }
    }

    pub(super) async fn bearer(&self, upstream: &Upstream) -> Result<String, CredentialFailure> {
        let value = self.credentials.bearer(upstream).await?;
        assert!(value.is_sensitive());
        Ok(value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned())
    }

    /// Id, secret and session token.
    pub(super) async fn keys(
        &self,
        upstream: &Upstream,
    ) -> Result<(String, String, Option<String>), CredentialFailure> {
        let keys = self.credentials.aws(upstream).await?;
        Ok((
            keys.access_key_id.expose().to_owned(),
            keys.secret_access_key.expose().to_owned(),
            keys.session_token.as_ref().map(|token| token.expose().to_owned()),
        ))
    }
}

/// An upstream of this provider. Its fingerprint tells its settings apart.
pub(super) fn upstream(name: &str, api_key: Option<&str>, settings: &[(&str, &str)]) -> Upstream {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let pairs: Vec<(String, Secret)> =
        settings.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect();
    let key = api_key.map(Secret::new);
    let mut made = Upstream::new(&Draft {
        instance: name,
        kind: providers::find(name).unwrap(),
        base_url: "https://provider.example",
        api_key: key.as_ref(),
        headers: &[],
        client_settings: &pairs,
        max_retries: 0,
        first_byte_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        address: None,
    })
    .unwrap();
    let mut hasher = DefaultHasher::new();
    (name, api_key, settings).hash(&mut hasher);
    made.fingerprint = hasher.finish();
    made
}

/// Waits for what becomes true soon.
pub(super) async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
