//! Code in processes of this machine, for development: Python without network, without this machine's files, with
//! bounds on memory, time and output.
//!
//! Linux's namespaces do it, by util-linux's own programs. Where the system does not allow them nothing is run: there is
//! no second, weaker way.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use otari_filters::tools::result::Failure;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore};

/// What runs in the namespaces.
const SCRIPT: &str = include_str!("local_sandbox.sh");
/// The script could not prepare what it needs.
const NOT_ALLOWED: i32 = 200;
/// What a program may take.
const RUN: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Of standard output, and of standard error.
const MAX_OUTPUT: u64 = 256 << 10;
/// Files that are named to the model.
const MAX_NAMES: usize = 50;
/// Where sessions have their folders.
const FOLDER: &str = "/tmp";
/// Where its programs are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs that run at once, of all requests.
static RUNNING: Semaphore = Semaphore::const_new(4);
/// Whether this system can do it, once it was tried.
static ALLOWED: OnceCell<Result<(), String>> = OnceCell::const_new();

/// A session's folder.
pub(super) struct LocalSandbox {
    folder: Arc<Folder>,
}

/// Removed with its last user.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ends a program whose caller has left.
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a program did.
struct Ran {
    stdout: String,
    stderr: String,
    code: i32,
}

impl LocalSandbox {
    /// Makes a session's folder.
    ///
    /// # Errors
    /// What of this system is missing, or not allowed.
    pub(super) async fn open() -> Result<Self, String> {
        let folder = Arc::new(folder().map_err(|error| format!("no folder in {FOLDER}: {error}"))?);
        let tried = ALLOWED.get_or_init(|| attempt(Arc::clone(&folder))).await;
        tried.clone().map(|()| Self { folder })
    }

    /// Runs a program. The answer is a sandbox's `result_block`.
    pub(super) async fn run(&self, code: &str) -> Result<Value, Failure> {
        let before = names(&self.folder.0);
        let ran = start(Arc::clone(&self.folder), code.to_owned()).await;
        let ran = ran.map_err(|_| Failure::Unreachable)?;
        if ran.code == NOT_ALLOWED {
            return Err(Failure::Unreachable);
        }
        let made = names(&self.folder.0).into_iter().filter(|name| !before.contains(name));
        let files: Vec<Value> = made.map(|name| json!({"filename": name})).collect();
        Ok(json!({"content": {"stdout": ran.stdout, "stderr": ran.stderr,
            "return_code": ran.code, "content": files}}))
    }

    /// Ends the session: its folder goes with its last user.
    pub(super) async fn close(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

fn folder() -> std::io::Result<Folder> {
    let folder = Folder(Path::new(FOLDER).join(format!("otari-sandbox-{}", uuid::Uuid::new_v4())));
    let mut private = fs::DirBuilder::new();
    private.mode(0o700);
    private.create(&folder.0)?;
    private.create(folder.0.join("root"))?;
    private.create(folder.0.join("keep"))?;
    Ok(folder)
}

/// The files that a session has, some of them where there are many.
fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder.join("keep")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        files.map(|file| file.file_name().to_string_lossy().into_owned()).take(MAX_NAMES).collect();
    names.sort();
    names
}

/// Whether a program runs at all here.
async fn attempt(folder: Arc<Folder>) -> Result<(), String> {
    let ran = start(folder, "print('ready')".to_owned()).await?;
    if ran.code == 0 && ran.stdout == "ready\n" {
        return Ok(());
    }
    let said: String = ran.stderr.trim().chars().take(200).collect();
    Err(format!(
        "this system does not allow it ({said}). It needs Linux with user namespaces, util-linux and python3; set \
         sandbox_url instead"
    ))
}

/// Runs a program in a thread; who leaves ends it.
async fn start(folder: Arc<Folder>, code: String) -> Result<Ran, String> {
    let permit = RUNNING.acquire().await.map_err(|error| error.to_string())?;
    let left = Left(Arc::new(AtomicBool::new(false)));
    let is_left = Arc::clone(&left.0);
    let work = move || {
        let _permit = permit;
        run(&folder.0, &code, &is_left).map_err(|error| error.to_string())
    };
    let ran = tokio::task::spawn_blocking(work).await;
    drop(left);
    ran.map_err(|error| error.to_string())?
}

fn run(folder: &Path, code: &str, is_left: &AtomicBool) -> std::io::Result<Ran> {
    let mut child = Command::new("prlimit")
        // Memory of each of its processes, processor time, the size of a file, open files, no core files.
        .args(["--as=1073741824", "--cpu=60", "--fsize=33554432", "--nofile=128", "--core=0", "--"])
        .args(["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--ipc"])
        // The namespace ends with whoever started it, and everything in it.
        .args(["--uts", "--fork", "--kill-child=KILL", "sh", "-c", SCRIPT, "sh"])
        .args([folder.join("root"), folder.join("keep")])
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/tmp")
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take().map(reader), child.stderr.take().map(reader));
    if let Some(mut input) = child.stdin.take() {
        // A program is shorter than what a pipe takes, or somebody reads it; who ended early has said why.
        let code = code.to_owned();
        thread::Builder::new().spawn(move || input.write_all(code.as_bytes()))?;
    }
    let ended = wait(&mut child, is_left)?;
    let (stdout, mut stderr) = (text(stdout), text(stderr));
    let code = match ended {
        Some(code) => code,
        None => {
            stderr.push_str(&format!("\nstopped: it ran for {} seconds", RUN.as_secs()));
            124
        }
    };
    Ok(Ran { stdout, stderr, code })
}

/// Waits for the end; `None` when it had to be ended.
fn wait(child: &mut Child, is_left: &AtomicBool) -> std::io::Result<Option<i32>> {
    let until = Instant::now() + RUN;
    loop {
        if let Some(status) = child.try_wait()? {
            // One that was killed by a signal has none.
            return Ok(Some(status.code().unwrap_or(137)));
        }
        if Instant::now() >= until || is_left.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// Reads as much as there may be, and then no more.
fn reader(pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
        bytes
    })
}

fn text(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
