//! Runs a client as a user does: in its own process, with a home and an environment of its own, and for so long only.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Importing an SDK takes seconds of CPU on a busy machine; more than this is a hang.
const LIMIT: Duration = Duration::from_secs(90);

/// Nobody listens here: what a client asks of the world outside fails at once, instead of waiting for a name to resolve.
const NOWHERE: &str = "http://127.0.0.1:1";

/// What became of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` when its time was up.
    status: Option<ExitStatus>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// It ended by itself and was content.
    pub(crate) fn ok(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// It was killed because its time was up.
    pub(crate) fn hung(&self) -> bool {
        self.status.is_none()
    }
}

/// `program` in the folder `home`, which is its home too, without anything of the developer's shell; only loopback is
/// open to it.
pub(crate) fn client(program: &Path, home: &Path) -> Command {
    assert!(program.exists(), "{} is missing: run make deps", program.display());
    let mut command = Command::new(program);
    command.env_clear().current_dir(home).env("HOME", home);
    command.env("HTTP_PROXY", NOWHERE).env("HTTPS_PROXY", NOWHERE);
    command.env("NO_PROXY", "127.0.0.1,localhost");
    command
}

/// Runs it until it ends or its time is up; whatever it has started ends with it.
pub(crate) fn run(command: Command) -> Ended {
    run_for(command, LIMIT)
}

/// As [`run`], with this time.
pub(crate) fn run_for(mut command: Command, limit: Duration) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, limit);
    // Its children hold the pipes open; the group is its own, so nobody else is meant.
    let group = child.id().to_string();
    let _ = Command::new("sh").args(["-c", "kill -KILL -- -\"$0\" 2>/dev/null", &group]).status();
    if status.is_none() {
        child.wait().expect("its own child");
    }
    Ended { status, out: out.join().expect("a reader"), err: err.join().expect("a reader") }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("its own child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
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
