//! `otari providers`: the real binary asks the real mock.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::provider::{Provider, Reply};

/// Runs it in a folder with this configuration and just these variables.
fn run(yaml: &str, env: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config.yml");
    std::fs::write(&file, yaml).expect("a writable folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
    command.arg("providers").arg("--config").arg(&file).args(arguments).env_clear();
    command.envs(env.iter().copied()).current_dir(folder.path()).stdin(Stdio::null());
    let output = command.output().expect("the built binary runs");
    assert_eq!(files(folder.path()), ["config.yml"], "nothing is made, no database either");
    output
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder");
    entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect()
}

/// Checks the exit code; returns standard output.
fn ended(output: &Output, code: i32) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    out
}

/// A running `otari mock`; killed when dropped.
struct Mock {
    child: Child,
    base: String,
}

impl Mock {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
        command.arg("mock").env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the built binary runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        let base = line.trim().strip_prefix("mock provider listening on ").unwrap_or_default();
        assert!(base.ends_with("/v1"), "{line}");
        Self { child, base: base.into() }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The row of each instance.
fn states(out: &str) -> Vec<(String, String)> {
    let rows: Value = serde_json::from_str(out).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = rows.as_array().expect("a list").iter();
    rows.map(|row| (text(&row["instance"]), text(&row["state"]))).collect()
}

#[test]
fn what_is_configured_is_listed_and_asked() {
    let mock = Mock::start();
    let base = &mock.base;
    let yaml = format!(
        "providers:\n  mock: \n  local: {{provider_type: mock, api_base: '{base}'}}\n  \
         openai: {{api_key: sk-hunter2, api_base: '{base}'}}\n  mistral: {{api_base: '{base}'}}\n  \
         perplexity: {{api_key: sk-hunter2, api_base: '{base}'}}\n"
    );
    let env = [("MISTRAL_API_KEY", "sk-hunter2")];
    let out = ended(&run(&yaml, &env, &["--check"]), 0);
    assert!(!out.contains("hunter2"), "{out}");
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect())
        .collect();
    assert_eq!(
        lines,
        [
            ["INSTANCE", "TYPE", "BASE URL", "CREDENTIAL", "FORMATS", "STATE"],
            [
                "mock",
                "mock",
                "built in",
                "none needed",
                "chat, messages, responses",
                "ok (built in)"
            ],
            ["local", "mock", base, "none needed", "chat, messages, responses", "ok (3 models)"],
            ["openai", "openai", base, "config", "chat, responses", "ok (3 models)"],
            ["mistral", "mistral", base, "env MISTRAL_API_KEY", "mistral", "ok (3 models)"],
            ["perplexity", "perplexity", base, "config", "chat", "no list endpoint"],
        ]
    );
    let out = ended(&run(&yaml, &env, &["--json"]), 0);
    let rows: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(rows[1]["models"], 3, "{rows}");
    assert_eq!(rows[3]["credential"], json!({"source": "env", "name": "MISTRAL_API_KEY"}));
    assert!(!out.contains("hunter2"), "{out}");
}

#[test]
fn each_way_to_fail_is_told_apart_and_check_ends_with_one() {
    let refusing = Provider::answers(401, json!({"error": {"message": "bad key"}}));
    let silent = Provider::never_answers();
    let elsewhere = Provider::start(|_| Reply::bytes(200, "text/html", "<html>hello</html>"));
    let without = Provider::answers(404, json!({}));
    let moved =
        Provider::start(|_| Reply::json(302, &json!({})).header("location", "http://127.0.0.1:1/"));
    let entry = |name: &str, provider: &Provider| {
        format!(
            "  {name}: {{provider_type: openai, api_key: sk-hunter2, api_base: '{}'}}\n",
            provider.base()
        )
    };
    let yaml = format!(
        "providers:\n{}{}{}{}{}  gone: {{provider_type: vllm, api_base: 'http://127.0.0.1:1/v1'}}\n  groq: \n",
        entry("refusing", &refusing),
        entry("silent", &silent),
        entry("elsewhere", &elsewhere),
        entry("without", &without),
        entry("moved", &moved),
    );
    let began = std::time::Instant::now();
    let out = ended(&run(&yaml, &[], &["--json", "--check"]), 1);
    assert!(began.elapsed().as_secs() < 9, "all at once, five seconds each");
    let states = states(&out);
    let state = |name: &str| {
        let row = states.iter().find(|(instance, _)| instance == name).expect("every instance");
        row.1.as_str()
    };
    assert_eq!(state("refusing"), "credential refused (401)");
    assert_eq!(state("silent"), "unreachable: no answer within 5 s");
    assert!(state("elsewhere").contains("no list of models"), "{out}");
    assert_eq!(state("without"), "answers, but lists no models (404)");
    assert!(state("moved").starts_with("unreachable: it leads elsewhere (302"), "{out}");
    assert!(state("gone").starts_with("unreachable: "), "{out}");
    assert_eq!(state("groq"), "not asked: no credential");
    assert!(!out.contains("hunter2"), "{out}");

    let asked = refusing.only();
    assert_eq!(
        (asked.method.as_str(), asked.header("authorization")),
        ("GET", Some("Bearer sk-hunter2"))
    );
    assert!(asked.path.ends_with("/models"), "{}", asked.path);
    ended(&run(&yaml, &[], &[]), 0);
}

#[test]
fn offline_asks_nobody_and_all_needs_no_configuration() {
    let provider = Provider::answers(200, json!({"data": []}));
    let yaml = format!(
        "providers: {{openai: {{api_base: '{}'}}, bedrock: {{region_name: eu-west-1}}}}",
        provider.base()
    );
    let out = ended(&run(&yaml, &[], &["--offline"]), 0);
    assert!(out.contains("MISSING") && out.contains("this machine's"), "{out}");
    assert!(out.contains("https://bedrock-runtime.eu-west-1.amazonaws.com"), "{out}");
    assert!(!out.contains("STATE"), "{out}");
    ended(&run(&yaml, &[], &["--offline", "--check"]), 1);
    assert_eq!(provider.count(), 0);

    let out = ended(&run("providers: [broken", &[], &["--all"]), 0);
    for part in
        ["AWS_BEARER_TOKEN_BEDROCK, AWS_REGION", "https://api.openai.com/v1 (OPENAI_BASE_URL)"]
    {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let out = ended(&run("", &[], &["--all", "--json"]), 0);
    let rows: Value = serde_json::from_str(&out).expect("JSON");
    let groq = rows.as_array().expect("a list").iter().find(|row| row["name"] == "groq");
    let groq = groq.expect("groq");
    assert_eq!(groq["credential_variables"], json!(["GROQ_API_KEY"]));
    assert_eq!(groq["formats"], json!(["chat", "responses"]));
    ended(&run("providers: [broken", &[], &[]), 78);
}

#[test]
fn an_empty_configuration_says_what_to_do() {
    let done = run("", &[], &[]);
    assert_eq!(ended(&done, 0), "");
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(err.contains("No provider is configured") && err.contains("--all"), "{err}");
}
