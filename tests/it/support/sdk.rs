//! Runs the official SDKs as their users do: a script in its own process, with an empty environment and a time limit.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Importing an SDK takes seconds of CPU on a busy machine; more than this is a hang.
const LIMIT: Duration = Duration::from_secs(90);

/// One of the languages `make deps` installs SDKs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    Python,
    Node,
}

impl Sdk {
    /// Runs `tests/it/clients/<script>.{py,mjs}` with these arguments; returns the JSON it prints.
    ///
    /// Panics when the SDK is not installed, the time is up, or the script fails.
    pub(crate) fn run(self, script: &str, arguments: &[&str]) -> Value {
        let (program, file) = self.locate(script);
        let home = tempfile::TempDir::new().expect("a temporary folder");
        let mut command = Command::new(&program);
        command.arg(&file).args(arguments).current_dir(home.path()).env_clear();
        // Node resolves packages from the script's folder: it is told where they are instead.
        command.env("HOME", home.path()).env("OTARI_SDK", sdk_root().join("node/node_modules"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let until = Instant::now() + LIMIT;
        let ended = loop {
            if let Some(ended) = child.try_wait().expect("its own child") {
                break Some(ended);
            }
            if Instant::now() > until {
                child.kill().expect("its own child");
                child.wait().expect("its own child");
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let (out, err) = (out.join().expect("a reader"), err.join().expect("a reader"));
        assert!(
            ended.is_some_and(|ended| ended.success()),
            "{self:?} {script} {arguments:?} ended with {ended:?}\n{out}{err}"
        );
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("not JSON ({error}): {out}{err}"))
    }

    fn locate(self, script: &str) -> (PathBuf, PathBuf) {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
        let (program, file) = match self {
            Self::Python => {
                (sdk_root().join("python/bin/python"), clients.join(format!("{script}.py")))
            }
            Self::Node => (
                sdk_root().join("node/node_modules/node/bin/node"),
                clients.join(format!("{script}.mjs")),
            ),
        };
        assert!(program.exists(), "{} is missing: run make deps", program.display());
        (program, file)
    }
}

fn sdk_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sdk")
}

fn collect(output: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    let mut output = output.expect("the output is piped");
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // A broken pipe ends the text; the exit status tells the rest.
        let _ = output.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}
