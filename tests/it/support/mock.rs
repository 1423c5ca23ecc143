//! The built-in provider in a process of its own, as `otari mock` runs it, and what it has seen.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::gateway::Gateway;

/// A running `otari mock`; killed when dropped.
pub(crate) struct Mock {
    child: Child,
    /// `http://<address>`, without a path.
    root: String,
}

impl Mock {
    pub(crate) fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
        command.args(["mock", "--port", "0"]).env_clear().stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the built binary runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        let from = line.find("http://").expect("the line holds its address");
        let root = line[from..].trim_end().trim_end_matches("/v1").to_owned();
        Self { child, root }
    }

    /// The address of `path`, which starts with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    /// The last 64 requests, oldest first: `method`, `path`, `headers`, `body_bytes`, `body`.
    pub(crate) async fn requests(&self, gateway: &Gateway) -> Vec<Value> {
        let answer = gateway.http().get(self.url("/__mock/requests")).send().await;
        let seen = answer.expect("the mock answers").bytes().await.expect("a whole answer");
        let seen: Value = serde_json::from_slice(&seen).expect("JSON");
        seen["requests"].as_array().expect("a list").clone()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
