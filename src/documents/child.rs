//! The process that reads one document: bytes on standard input, what they say on standard output.
//!
//! It bounds itself before it reads a byte. What goes beyond ends it, and nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use rlimit::Resource;

use super::{Head, MAX_BYTES, Reading, Unread, Wanted, read};

/// Memory: the largest document, what it unfolds to, and pictures of its pages.
const MAX_MEMORY: u64 = 2 << 30;

/// Processor time, and time in all: a caller waits for it.
const MAX_TIME: Duration = Duration::from_secs(20);

/// Reads one document from `input`: a line of JSON that says what is wanted, then the bytes.
///
/// # Errors
/// When it cannot bound itself, or is not asked properly. A broken document is none.
pub fn run(input: impl Read, mut output: impl Write) -> io::Result<()> {
    bound()?;
    let mut input = BufReader::new(input);
    let mut line = String::new();
    input.by_ref().take(4096).read_line(&mut line)?;
    let wanted: Wanted = serde_json::from_str(&line)?;
    let mut bytes = Vec::new();
    input.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let reading = std::panic::catch_unwind(|| read(wanted, &bytes));
    let reading = reading.unwrap_or_else(|_| Err(Unread::broken("its reader gave up")));
    let (head, reading) = match reading {
        Ok(reading) => (of(&reading), reading),
        Err(why) => (Head { broken: Some(why.to_string()), ..Head::default() }, Reading::default()),
    };
    serde_json::to_writer(&mut output, &head)?;
    output.write_all(b"\n")?;
    output.write_all(reading.text.as_bytes())?;
    for page in &reading.pages {
        output.write_all(page)?;
    }
    output.flush()
}

fn of(reading: &Reading) -> Head {
    Head {
        text: reading.text.len(),
        pages: reading.pages.iter().map(Vec::len).collect(),
        broken: None,
    }
}

/// Bounds this process; nothing it reads can lift that.
fn bound() -> io::Result<()> {
    let seconds = MAX_TIME.as_secs();
    Resource::AS.set(MAX_MEMORY, MAX_MEMORY)?;
    Resource::CPU.set(seconds, seconds)?;
    Resource::CORE.set(0, 0)?;
    // It opens nothing beyond what it was given.
    Resource::NOFILE.set(16, 16)?;
    // Where it waits instead of working. An abort is heard by whoever waits for it.
    std::thread::Builder::new().name("watchdog".into()).spawn(|| {
        std::thread::sleep(MAX_TIME);
        std::process::abort();
    })?;
    // What a library says of a document would only fill the log.
    std::panic::set_hook(Box::new(|_| {}));
    Ok(())
}
