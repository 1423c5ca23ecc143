//! Processes that read documents: a few at a time, so that many large ones do not take every core.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Head, MAX_BYTES, MAX_CHARS, MAX_PICTURES, Reading, Unread, Wanted, read};

/// Waiting for others and reading, together. Beyond, the request goes on without the document.
const MAX_WAIT: Duration = Duration::from_secs(45);

/// What may come out of a process: every character in four bytes, and pictures.
const MAX_OUTPUT: u64 = 4 * MAX_CHARS as u64 + MAX_PICTURES as u64 * (16 << 20);

/// The program itself: it reads a document when it is called with [`ARGUMENT`].
const PROGRAM: &str = "/proc/self/exe";

/// The hidden command of the program.
const ARGUMENT: &str = "read-document";

/// How many may be read at once. Clones share the number.
#[derive(Clone, Debug)]
pub struct Readers {
    free: Arc<Semaphore>,
}

impl Default for Readers {
    /// Half of the cores, at least one.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { free: Arc::new(Semaphore::new((cores / 2).max(1))) }
    }
}

impl Readers {
    /// Reads a document, in a process of its own unless it is plain text.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn read(&self, wanted: Wanted, bytes: Bytes) -> Result<Reading, Unread> {
        if bytes.len() > MAX_BYTES {
            return Err(Unread::TooLarge);
        }
        let all = async {
            let permit = self.free.clone().acquire_owned().await;
            let permit = permit.map_err(|_| Unread::OutOfTime)?;
            // The permit goes along: a caller who leaves does not make room before the process has ended.
            let work = move || {
                let _permit = permit;
                if wanted.format.is_plain() { read(wanted, &bytes) } else { ask(wanted, &bytes) }
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(reading) => reading,
                Err(_) => Err(Unread::broken("its reader gave up")),
            }
        };
        timeout(MAX_WAIT, all).await.unwrap_or(Err(Unread::OutOfTime))
    }
}

/// Has another process read a document. Blocks, at most as long as that process may live.
fn ask(wanted: Wanted, bytes: &[u8]) -> Result<Reading, Unread> {
    let failed = |error: io::Error| Unread::NoReader(error.kind().to_string());
    let mut child = Command::new(PROGRAM)
        .arg(ARGUMENT)
        // It needs neither credentials nor files.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(mut input), Some(output)) = (input, output) else {
        return Err(Unread::NoReader("no pipes".into()));
    };
    // It reads everything before it writes anything, and ends itself when it takes too long. One that died while it was
    // written to is asked all the same: it may have said why.
    let line = serde_json::to_vec(&wanted).map_err(|error| failed(error.into()))?;
    let _ = input.write_all(&line).and_then(|()| input.write_all(b"\n"));
    let _ = input.write_all(bytes);
    drop(input);
    let answer = answer(output.take(MAX_OUTPUT));
    // More than it may say: it is not listened to any longer.
    let _ = child.kill();
    let ended = child.wait().map_err(failed)?;
    match answer {
        Ok(answer) => answer,
        Err(_) if ended.success() => Err(Unread::NoReader("no answer".into())),
        Err(_) => {
            Err(Unread::broken("it asked for more memory, time or depth than a document may"))
        }
    }
}

/// What a process says: `Err` where it did not come to an end.
fn answer(output: impl Read) -> io::Result<Result<Reading, Unread>> {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.by_ref().take(4096).read_line(&mut line)?;
    let head: Head = serde_json::from_str(&line)?;
    if let Some(why) = head.broken {
        return Ok(Err(Unread::broken(why)));
    }
    let mut part = |size: usize| -> io::Result<Vec<u8>> {
        let mut part = Vec::new();
        output.by_ref().take(size as u64).read_to_end(&mut part)?;
        if part.len() == size { Ok(part) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    let text = String::from_utf8(part(head.text)?).map_err(io::Error::other)?;
    let pages = head.pages.into_iter().take(MAX_PICTURES).map(part).collect::<io::Result<_>>()?;
    Ok(Ok(Reading { text, pages }))
}
