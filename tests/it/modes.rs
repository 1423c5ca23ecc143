//! Standalone or connected, as `otari check` and its sisters see it: exit codes and what is said.

use std::path::Path;
use std::process::{Command, Output, Stdio};

const TOKEN: (&str, &str) = ("OTARI_AI_TOKEN", "gw_secret");

/// A folder with one configuration, and the binary in it with just these variables.
struct Shell(tempfile::TempDir);

impl Shell {
    fn with(yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("otari.yml"), yaml).expect("a writable folder");
        Self(folder)
    }

    fn run(&self, env: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
        command.args(arguments).env_clear().envs(env.iter().copied()).current_dir(self.0.path());
        command.stdin(Stdio::null()).output().expect("the built binary runs")
    }

    /// What `otari check` prints; it must end with this code and never show the token.
    fn check(&self, env: &[(&str, &str)], code: i32) -> String {
        said(&self.run(env, &["check", "otari.yml"]), code).0
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn said(output: &Output, code: i32) -> (String, String) {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    assert!(!out.contains("gw_secret") && !err.contains("gw_secret"), "{out}\n{err}");
    (out, err)
}

#[test]
fn a_token_is_all_that_connected_mode_needs() {
    let shell = Shell::with("host: 127.0.0.1\ndatabase_url: bogus\nmaster_key: mk\n");
    let expected = "\
warning: configuration  no effect in connected mode, where the platform decides: database_url, master_key
ok: otari.yml
mode       hybrid (connected)
listen     http://127.0.0.1:8000
platform   https://api.otari.ai/api/v1
journal    ./otari-journal
";
    // The variables of providers are not looked at.
    let out = shell.check(&[TOKEN, ("OPENAI_API_KEY", "sk-1")], 0);
    assert_eq!(out, expected);
    let out = shell.check(&[("OTARI_PLATFORM_TOKEN", "t"), ("OTARI_MODE", "platform")], 0);
    assert_eq!(out, expected);
    let elsewhere = [TOKEN, ("PLATFORM_BASE_URL", "http://127.0.0.1:9/v1/")];
    assert!(shell.check(&elsewhere, 0).contains("\nplatform   http://127.0.0.1:9/v1\n"));
    // The same file without the token: now the database counts.
    let out = shell.check(&[], 78);
    assert!(out.contains("otari.yml:2:15  database_url: not a database URL."), "{out}");
    assert!(!shell.path().join("otari-journal").exists(), "check makes nothing");
}

#[test]
fn what_contradicts_itself_stops_the_start_with_the_documented_texts() {
    for (yaml, env, want) in [
        (
            "mode: standalone",
            &[TOKEN][..],
            "Standalone mode conflicts with OTARI_AI_TOKEN being set",
        ),
        (
            "mode: platform",
            &[][..],
            "Hybrid mode (legacy value 'platform') requires OTARI_AI_TOKEN to be set.",
        ),
        (
            "mode: cloud",
            &[][..],
            "Invalid mode (set via OTARI_MODE or the config 'mode' field). Expected 'standalone' or 'hybrid'.",
        ),
        (
            "providers: {openai: {api_key: sk-1}}",
            &[TOKEN][..],
            "Local provider credentials are not supported in hybrid mode. Remove configured providers",
        ),
        (
            "platform: {base_url: ''}",
            &[TOKEN][..],
            "platform.base_url is required when hybrid mode is active",
        ),
        (
            "platform: {management_url: otari.ai}",
            &[TOKEN][..],
            "platform.management_url must be an absolute http(s) URL",
        ),
        (
            "platform: {usage_inline_timeout_ms: 1.5}",
            &[TOKEN][..],
            "usage_inline_timeout_ms must be a positive integer, got 1.5",
        ),
    ] {
        let shell = Shell::with(yaml);
        let out = shell.check(env, 78);
        assert!(out.contains(want), "{want}\n{out}");
        assert!(out.ends_with("1 problem. Nothing was started.\n"), "{out}");
        let (out, err) = said(&shell.run(env, &["serve", "--config", "otari.yml"]), 78);
        assert!(out.is_empty() && err.contains(want), "{want}\n{err}");
        let made: Vec<_> = std::fs::read_dir(shell.path()).expect("a folder").collect();
        assert_eq!(made.len(), 1, "nothing but the configuration: {made:?}");
    }
}

#[test]
fn commands_that_need_a_database_say_that_there_is_none() {
    let shell = Shell::with("host: 127.0.0.1");
    for command in [&["migrate", "-c", "otari.yml"][..], &["init-db"], &["migrate", "--dry-run"]] {
        let (_, err) = said(&shell.run(&[TOKEN], command), 78);
        assert!(err.contains("connected mode has no database. Unset"), "{command:?}: {err}");
    }
    assert!(!shell.path().join("otari-gateway.db").exists());
    let (_, err) = said(&shell.run(&[TOKEN], &["demo", "--port", "0"]), 78);
    assert!(err.contains("Standalone mode conflicts with OTARI_AI_TOKEN"), "{err}");
}

#[test]
fn init_writes_a_connected_configuration_for_a_connected_gateway() {
    let shell = Shell::with("");
    let env = [TOKEN, ("OPENAI_API_KEY", "sk-1")];
    let (out, _) = said(&shell.run(&env, &["init"]), 0);
    assert!(out.contains("connected mode: OTARI_AI_TOKEN is set"), "{out}");
    let (out, _) = said(&shell.run(&env, &["check", "config.yml"]), 0);
    assert!(out.starts_with("ok: config.yml\nmode       hybrid (connected)\n"), "{out}");
}

#[test]
fn policies_are_listed_or_refused() {
    let shell = Shell::with(
        "\
providers: {mock: }
routing:
  policies:
    fast:
      select:
        - {router: weighted, candidates: [mock:a, mock:b], weights: {mock:a: 1}}
        - default: mock:c
    slow: {select: [{default: mock:a}], on_failure: [mock:b]}
",
    );
    let out = shell.check(&[], 0);
    assert!(out.starts_with("ok: ") && out.contains("\nrouting    fast, slow\n"), "{out}");
    let shell = Shell::with(
        "\
providers: {mock: }
routing:
  policies:
    fast:
      select:
        - when: {budget_used_pct: {gte: 80}}
          target: mock:a
        - default: mock:b
    mock: {select: [{default: gone}]}
",
    );
    let out = shell.check(&[], 78);
    for want in [
        "otari.yml:6:11  routing.policies.fast.select[0].when: this version does not run conditions.",
        "Routing policy name 'mock' is the name of a provider.",
        "'gone' is not provider:model and not the name of an alias.",
        "3 problems. Nothing was started.",
    ] {
        assert!(out.contains(want), "{want}\n{out}");
    }
}
