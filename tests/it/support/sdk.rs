//! Runs the official SDKs as their users do: a script in its own process, with an empty environment and a time limit.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::process;

/// One of the languages `make deps` installs SDKs for, or a client that has an environment of its own there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    Python,
    Node,
    /// A Python client, by the name of its environment.
    Client(&'static str),
    /// What is installed with the agents: the AI SDK.
    Ai,
}

impl Sdk {
    /// Runs `tests/it/clients/<script>.{py,mjs}` with these arguments; returns the JSON it prints.
    ///
    /// Panics when the SDK is not installed, the time is up, or the script fails.
    pub(crate) fn run(self, script: &str, arguments: &[&str]) -> Value {
        let home = tempfile::TempDir::new().expect("a temporary folder");
        let (program, packages, extension) = match self {
            Self::Python => ("python/bin/python".to_owned(), "node", "py"),
            Self::Client(name) => (format!("clients/{name}/bin/python"), "node", "py"),
            Self::Node => ("node/node_modules/node/bin/node".to_owned(), "node", "mjs"),
            Self::Ai => ("node/node_modules/node/bin/node".to_owned(), "agents", "mjs"),
        };
        let mut command = process::client(&installed(&program), home.path());
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
        command.arg(clients.join(format!("{script}.{extension}"))).args(arguments);
        // Node resolves packages from the script's folder: it is told where they are instead.
        command.env("OTARI_SDK", installed(packages).join("node_modules"));
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        let ended = process::run(command);
        assert!(ended.ok(), "{self:?} {script} {arguments:?} ended with {ended:?}");
        let (out, err) = (&ended.out, &ended.err);
        serde_json::from_str(out).unwrap_or_else(|error| panic!("not JSON ({error}): {out}{err}"))
    }
}

/// Where `make deps` has put a program or a folder.
pub(crate) fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sdk").join(path)
}
