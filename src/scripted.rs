//! A server on loopback that answers as a test tells it, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Lines, as they came.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// The server.
pub(crate) struct Scripted {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    /// `answer`: what is written for a request; `None`: never anything.
    pub(crate) async fn new(answer: impl Fn(&Asked) -> Option<String> + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), std::rc::Rc::new(answer));
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), std::rc::Rc::clone(&answer));
                tokio::task::spawn_local(async move {
                    let _ = serve(socket, &log, &*answer).await;
                });
            }
        });
        Self { url, asked }
    }

    /// Everything it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut socket: TcpStream,
    log: &Mutex<Vec<Asked>>,
    answer: &impl Fn(&Asked) -> Option<String>,
) -> std::io::Result<()> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let whole = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse().unwrap());
            (body.len() >= length).then(|| (head.to_owned(), body[..length].to_owned()))
        });
        if let Some((head, body)) = whole {
            let mut words = head.split(' ');
            let (method, path) =
                (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            bytes.drain(..head.len() + 4 + body.len());
            let asked = Asked { method, path, head, body };
            log.lock().unwrap().push(asked.clone());
            match answer(&asked) {
                Some(answer) => socket.write_all(answer.as_bytes()).await?,
                None => std::future::pending().await,
            }
            continue;
        }
        match socket.read(&mut piece).await? {
            0 => return Ok(()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// An answer.
pub(crate) fn respond(status: u16, headers: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}"))
}

/// An answer in JSON.
pub(crate) fn respond_json(status: u16, body: &Value) -> Option<String> {
    respond(status, "content-type: application/json\r\n", &body.to_string())
}

/// An MCP server with these tools. `call`: what comes of a call, as the whole answer to it.
pub(crate) async fn mcp_server(
    tools: Value,
    call: impl Fn(&Value) -> Option<Value> + 'static,
) -> Scripted {
    Scripted::new(move |asked| {
        let message = asked.json();
        let result = |result: Value| {
            let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
            let headers = "content-type: application/json\r\nmcp-session-id: s-1\r\n";
            respond(200, headers, &answer.to_string())
        };
        match (asked.method.as_str(), message["method"].as_str().unwrap_or_default()) {
            ("GET", _) => respond(405, "", ""),
            ("DELETE", _) => respond(200, "", ""),
            (_, "initialize") => result(json!({"protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}})),
            (_, "tools/list") => result(json!({"tools": tools})),
            (_, "tools/call") => call(&message["params"]).and_then(result),
            _ => respond(202, "", ""),
        }
    })
    .await
}

/// Runs a test on one thread.
pub(crate) fn on_one_thread(test: impl Future<Output = ()>) {
    // Only its first statement makes a process fit for TLS; a second one changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}
