//! `otari mock-platform`: the platform to test against, as a person in a shell has it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use otari::mock::platform::Script;
use serde_json::{Value, json};

/// A running `otari mock-platform`; killed when dropped.
struct Running {
    child: Child,
    base: String,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child =
            command(arguments).stdout(Stdio::piped()).spawn().expect("the built binary runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        let base = line.trim().strip_prefix("mock platform listening on ").unwrap_or_default();
        assert!(base.ends_with("/api/v1"), "the line ends with the base URL: {line}");
        Self { child, base: base.into() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
    command.arg("mock-platform").args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn script(folder: &Path, script: &Value) -> String {
    let file = folder.join("script.json");
    std::fs::write(&file, script.to_string()).expect("the temporary folder is writable");
    file.to_str().expect("a path in ASCII").into()
}

#[tokio::test]
async fn it_plays_a_script_and_flags_outrank_it() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = json!({"gateway_token": "gw_a", "resolve": [
        {"when": {"model": "down"}, "then": {"status": 503}}]});
    let file = script(folder.path(), &rules);
    let flags = ["--script", &file, "--gateway-token", "gw_b", "--provider-base", "http://h:1/v1"];
    let platform = Running::start(&flags);
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let resolve = async |token: &str, model: &str| {
        let url = format!("{}/gateway/provider-keys/resolve", platform.base);
        let request = http.post(url).header("X-Gateway-Token", token).header("X-User-Token", "tk");
        request.json(&json!({"model": model})).send().await.expect("an answer")
    };
    assert_eq!(resolve("gw_a", "m").await.status(), 401, "the flag outranks the file");
    assert_eq!(resolve("gw_b", "down").await.status(), 503);
    let plan: Value = resolve("gw_b", "m").await.json().await.expect("a plan");
    assert_eq!(plan["attempts"][0]["api_base"], "http://h:1/v1");
    let seen = platform.base.replace("/api/v1", "/__platform/seen");
    let seen: Value = http.get(seen).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(seen["counts"]["resolves"], 3);
    assert_eq!(seen["violations"], json!([]));
}

#[test]
fn mistakes_are_told_before_anything_is_served() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wrong = script(folder.path(), &json!({"usage": [{"then": {"status": 99}}]}));
    for (file, said) in [
        (wrong.as_str(), "script.json: usage[0].then.status: 200 to 599"),
        ("/nowhere/script.json", "/nowhere/script.json: No such file"),
    ] {
        let output = command(&["--script", file]).output().expect("the built binary runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(said), "{err}");
    }
}

#[test]
fn the_scripts_in_the_documents_are_scripts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in ["README.md", "src/mock/platform.rs"] {
        let text = std::fs::read_to_string(root.join(document)).expect(document);
        let text = text.replace("//! ", "");
        let shown = text.split("```json\n").skip(1).filter_map(|after| after.split("```").next());
        let scripts: Vec<&str> = shown.filter(|block| block.contains("\"resolve\"")).collect();
        assert_eq!(scripts.len(), 1, "{document} shows a script");
        let read = Script::from_json(scripts[0].as_bytes());
        assert!(read.is_ok(), "{document}: {read:?}");
    }
}
