//! MCP servers: real ones, by the official Python SDK, and one that does what a script says.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::eventually;
use super::provider::{Provider, Reply, Request, Step};
use super::sdk::installed;

/// What the server of the kind `locked` wants to be shown.
pub(crate) const TOKEN: &str = "mcp-token-0123456789";

/// The real servers: one process for all tests, on one port. It ends with them, because its input does.
struct Process {
    port: u16,
    lines: Mutex<Vec<Value>>,
    _child: Child,
}

fn process() -> &'static Process {
    static PROCESS: OnceLock<Process> = OnceLock::new();
    PROCESS.get_or_init(|| {
        let python = installed("python/bin/python");
        assert!(python.exists(), "{} is missing: run make deps", python.display());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tools/server.py");
        let mut command = Command::new(python);
        command.arg(script).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python runs");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut first = String::new();
        out.read_line(&mut first).expect("it says where it listens");
        let first: Value = serde_json::from_str(&first).expect("JSON");
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("a line of JSON");
                process().lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let port = first["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Process { port: port.expect("a port"), lines: Mutex::new(Vec::new()), _child: child }
    })
}

/// A real server, under a tag of the test's own.
#[derive(Clone, Debug)]
pub(crate) struct Real {
    tag: String,
    kind: &'static str,
}

impl Real {
    /// The server of this kind: `sse`, `json`, `stateless`, `other`, `locked`; of the protocol's first version `legacy`,
    /// `locked-legacy`.
    pub(crate) fn new(kind: &'static str, tag: impl Into<String>) -> Self {
        process();
        Self { tag: tag.into(), kind }
    }

    /// Its path, without an address.
    pub(crate) fn path(&self) -> String {
        format!("/{}/{}/mcp", self.tag, self.kind)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.address(), self.path())
    }

    /// Its host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", process().port)
    }

    /// What was asked of it, oldest first: `method`, `rpc`, `params`, `session`, `authorization`.
    pub(crate) fn asked(&self) -> Vec<Value> {
        let lines = process().lines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |line: &&Value| line["tag"] == *self.tag && line["kind"] == self.kind;
        lines.iter().filter(is_ours).cloned().collect()
    }

    /// How often a method of MCP was called.
    pub(crate) fn count(&self, rpc: &str) -> usize {
        self.asked().iter().filter(|line| line["rpc"] == rpc).count()
    }

    /// The names of the tools that were called, in their order.
    pub(crate) fn called(&self) -> Vec<String> {
        let asked = self.asked();
        let calls = asked.iter().filter(|line| line["rpc"] == "tools/call");
        calls.map(|line| line["params"]["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until so many sessions have been ended by whoever opened them.
    pub(crate) async fn ended(&self, sessions: usize) {
        eventually("the end of the MCP session", async || {
            let asked = self.asked();
            let is_end = |line: &&Value| line["method"] == "DELETE" || line["method"] == "END";
            let ends = asked.iter().filter(is_end).count();
            (ends >= sessions).then_some(())
        })
        .await;
    }
}

/// An entry of `mcp_servers`.
pub(crate) fn entry(name: &str, url: &str) -> Value {
    json!({"name": name, "url": url})
}

/// A server whose tools are `one` and `two`; `script` has the first word on everything that it is asked, by the name of
/// the method, or the HTTP method where there is no JSON.
pub(crate) fn scripted(
    script: impl Fn(&str, &Request) -> Option<Reply> + Send + Sync + 'static,
) -> Provider {
    Provider::start(move |request| {
        let asked = request.json();
        let rpc = asked["method"].as_str().unwrap_or(&request.method).to_owned();
        if let Some(reply) = script(&rpc, request) {
            return reply;
        }
        let schema = json!({"type": "object", "properties": {}});
        match rpc.as_str() {
            "initialize" => {
                let result = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                                    "serverInfo": {"name": "scripted", "version": "1"}});
                result_of(request, result).header("Mcp-Session-Id", "s-1")
            }
            "tools/list" => {
                let tools = json!([{"name": "one", "inputSchema": schema}, {"name": "two", "inputSchema": schema}]);
                result_of(request, json!({"tools": tools}))
            }
            "tools/call" => {
                let text =
                    format!("{} is done", asked["params"]["name"].as_str().unwrap_or_default());
                result_of(request, text_result(&text))
            }
            "GET" => Reply::bytes(405, "text/plain", ""),
            _ => Reply::bytes(202, "text/plain", ""),
        }
    })
}

/// The answer to a request, as one JSON object.
pub(crate) fn result_of(request: &Request, result: Value) -> Reply {
    Reply::json(200, &json!({"jsonrpc": "2.0", "id": request.json()["id"], "result": result}))
}

/// The result of a tool that says this.
pub(crate) fn text_result(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

/// The answer to a request, as the only event of a stream.
pub(crate) fn event_of(request: &Request, result: Value) -> Reply {
    let message = json!({"jsonrpc": "2.0", "id": request.json()["id"], "result": result});
    Reply::events([Step::Send(format!("event: message\ndata: {message}\n\n").into())])
}

/// The methods that a scripted server was asked, in their order.
pub(crate) fn methods(server: &Provider) -> Vec<String> {
    let name = |request: &Request| match request.json()["method"].as_str() {
        Some(rpc) => rpc.to_owned(),
        None => request.method.clone(),
    };
    server.requests().iter().map(name).collect()
}
