//! Coding agents as people run them: the vendor's own program, one prompt, and a shell in which one command exists.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use super::gateway::Gateway;
use super::process;
use super::sdk::installed;

/// What the built-in provider writes into every text that a tool requires: for a shell, a command.
const COMMAND: &str = "lorem";

/// What that command prints. A provider that is shown it knows that the agent has run it.
pub(crate) const RAN: &str = "the-tool-has-run";

/// An agent that `make deps` installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// Responses.
    Codex,
    /// The same program with its built-in provider, of which only the address is changed.
    CodexBuiltIn,
    /// Messages.
    ClaudeCode,
    /// Chat completions.
    Opencode,
    /// Chat completions, and no tools: it reads edits out of the text.
    Aider,
}

/// One prompt, carried out.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The agent reports success.
    pub(crate) ok: bool,
    /// What the user sees.
    pub(crate) text: String,
    /// How often the agent has run the command.
    pub(crate) ran: usize,
    /// What `notes.txt` holds, which was `old` before.
    pub(crate) notes: String,
}

impl Agent {
    /// The route that it calls.
    pub(crate) fn route(self) -> &'static str {
        match self {
            Self::Codex | Self::CodexBuiltIn => "/v1/responses",
            Self::ClaudeCode => "/v1/messages",
            Self::Opencode | Self::Aider => "/v1/chat/completions",
        }
    }

    /// The name of the tool that runs commands.
    pub(crate) fn shell(self) -> &'static str {
        match self {
            Self::Codex | Self::CodexBuiltIn => "exec_command",
            Self::ClaudeCode => "Bash",
            Self::Opencode => "bash",
            Self::Aider => panic!("aider has no tools"),
        }
    }

    /// Carries out a prompt in a new home, with `model` of the gateway.
    pub(crate) fn turn(self, gateway: &Gateway, key: &str, model: &str) -> Turn {
        self.turn_with(gateway, key, model, "Say hello", &[])
    }

    /// As [`Self::turn`], with a prompt and further environment variables.
    pub(crate) fn turn_with(
        self,
        gateway: &Gateway,
        key: &str,
        model: &str,
        prompt: &str,
        env: &[(&str, &str)],
    ) -> Turn {
        let home = TempDir::new().expect("a temporary folder");
        let work = furnish(home.path());
        let mut command = match self {
            Self::Codex => codex(home.path(), gateway, model),
            Self::CodexBuiltIn => codex_built_in(home.path(), gateway, key, model),
            Self::ClaudeCode => claude_code(home.path(), gateway, key, model),
            Self::Opencode => opencode(home.path(), gateway, key, model),
            Self::Aider => aider(home.path(), gateway, key, model),
        };
        command.current_dir(&work).arg(prompt).env("OTARI_API_KEY", key);
        command.env("PATH", format!("{}/bin:/usr/bin:/bin", home.path().display()));
        command.envs(env.iter().copied());
        let ended = process::run(command);
        assert!(!ended.hung(), "{self:?} with {model} never ended: {ended:?}");
        let ran = fs::read_to_string(home.path().join("ran")).unwrap_or_default();
        Turn {
            ok: ended.ok(),
            text: format!("{}\n{}", ended.out, ended.err),
            ran: ran.lines().count(),
            notes: fs::read_to_string(work.join("notes.txt")).unwrap_or_default(),
        }
    }
}

/// Puts the command into a home, and makes its folder for work.
fn furnish(home: &Path) -> std::path::PathBuf {
    let (bin, work) = (home.join("bin"), home.join("work"));
    fs::create_dir_all(&bin).expect("the temporary folder is writable");
    fs::create_dir_all(&work).expect("the temporary folder is writable");
    let script = format!("#!/bin/sh\necho ran >> '{}/ran'\necho {RAN}\n", home.display());
    let command = bin.join(COMMAND);
    fs::write(&command, script).expect("the temporary folder is writable");
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).expect("its own file");
    // A login shell makes its own PATH.
    let profile = format!("export PATH='{}':\"$PATH\"\n", bin.display());
    fs::write(home.join(".profile"), profile).expect("the temporary folder is writable");
    fs::write(work.join("notes.txt"), "old\n").expect("the temporary folder is writable");
    work
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().expect("a file in a folder")).expect("a writable home");
    fs::write(file, text).expect("a writable home");
}

fn codex(home: &Path, gateway: &Gateway, model: &str) -> Command {
    let provider = format!(
        "model_provider = \"otari\"\n[model_providers.otari]\nname = \"otari\"\nbase_url = {:?}\n\
         env_key = \"OTARI_API_KEY\"\nwire_api = \"responses\"\n",
        gateway.url("/v1")
    );
    codex_with(home, model, &provider)
}

fn codex_built_in(home: &Path, gateway: &Gateway, key: &str, model: &str) -> Command {
    let address = format!("openai_base_url = {:?}\n", gateway.url("/v1"));
    let mut command = codex_with(home, model, &address);
    command.env("CODEX_API_KEY", key);
    command
}

fn codex_with(home: &Path, model: &str, provider: &str) -> Command {
    let config = format!(
        "model = {model:?}\ncheck_for_update_on_startup = false\nweb_search = \"disabled\"\n{provider}\
         [analytics]\nenabled = false\n"
    );
    write(&home.join(".codex/config.toml"), &config);
    let mut command = process::client(&installed("agents/bin/codex"), home);
    command.args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]);
    command
}

fn claude_code(home: &Path, gateway: &Gateway, key: &str, model: &str) -> Command {
    let mut command = process::client(&installed("agents/bin/claude"), home);
    command.env("ANTHROPIC_BASE_URL", gateway.url("")).env("ANTHROPIC_AUTH_TOKEN", key);
    // Every size of model that it knows, or it would ask for one that is not configured.
    for name in ["ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"] {
        command.env(name, model);
    }
    for quiet in [
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "DISABLE_TELEMETRY",
        "DISABLE_ERROR_REPORTING",
        "DISABLE_AUTOUPDATER",
    ] {
        command.env(quiet, "1");
    }
    // It refuses to run everything as root, and asks nobody about tools that are allowed by name.
    command.args(["--allowedTools", "Bash", "--print"]);
    command
}

fn opencode(home: &Path, gateway: &Gateway, key: &str, model: &str) -> Command {
    let config = json!({
        "provider": {"otari": {
            "npm": "@ai-sdk/openai-compatible", "name": "otari", "models": {model: {"name": "m"}},
            "options": {"baseURL": gateway.url("/v1"), "apiKey": key},
        }},
        "autoupdate": false, "share": "disabled",
    });
    write(&home.join(".config/opencode/opencode.json"), &config.to_string());
    let mut command = process::client(&installed("agents/bin/opencode"), home);
    command.env("OPENCODE_DISABLE_AUTOUPDATE", "1").env("OPENCODE_DISABLE_MODELS_FETCH", "1");
    command.args(["run", "--auto", "--model", &format!("otari/{model}")]);
    command
}

fn aider(home: &Path, gateway: &Gateway, key: &str, model: &str) -> Command {
    let mut command = process::client(&installed("clients/aider/bin/aider"), home);
    command.env("OPENAI_API_BASE", gateway.url("/v1")).env("OPENAI_API_KEY", key);
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    command.args(["--model", &format!("openai/{model}"), "--edit-format", "whole", "--no-git"]);
    command.args(["--analytics-disable", "--no-check-update", "--no-show-release-notes"]);
    command.args([
        "--no-show-model-warnings",
        "--no-pretty",
        "--yes-always",
        "notes.txt",
        "--message",
    ]);
    command
}
