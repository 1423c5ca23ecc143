//! Whoever ends a gateway when its bench cannot.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Outcome;

/// Ends the process `$0` and removes the folder `$1` when our end of the pipe closes, which the kernel does however we end.
const WATCHDOG: &str = r#"read -r _
kill -TERM "$0" 2>/dev/null; sleep 5; kill -KILL "$0" 2>/dev/null
rm -rf "$1""#;

/// Alive as long as there is something to watch over. To be dropped first: once the process has ended its id may be
/// somebody else's.
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// Watches over a process and its folder.
    pub(crate) fn new(process: u32, folder: &Path) -> Outcome<Self> {
        let child = Command::new("sh")
            .args(["-c", WATCHDOG, &process.to_string()])
            .arg(folder)
            // A group of its own: Ctrl-C in the terminal is for the bench.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
