//! Log lines. Events go through `tracing`; the line a request ends with has a way of its own, because formatting it
//! through layers costs more than the request's own bookkeeping.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use otari_filters::money::MicroUsd;
use otari_filters::protocol::json::write_text;
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;

use crate::clock;
use crate::config::{LogFormat, LogLevel};

/// Lines wait at most so long.
const EVERY: Duration = Duration::from_millis(100);
/// Bytes that may wait per shard while the reader of our log is slow; lines beyond are counted and dropped.
const MAX_SHARD_BYTES: usize = 4 << 20;
/// More than there are worker threads, so that they seldom meet.
const SHARDS: usize = 16;

/// Whether lines are JSON: text on a terminal, JSON elsewhere, unless asked for.
fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

/// Starts logging to standard error.
pub fn start(format: LogFormat, level: LogLevel) {
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(std::io::stderr);
    // A second start, in tests, keeps the first.
    let _ = if is_json(format) {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let filter = builder.reload_handle();
        let _ = RELEVEL.set(Box::new(move |level| drop(filter.reload(self::filter(level)))));
        builder.try_init()
    } else {
        let builder = builder.with_target(false).with_ansi(std::io::stderr().is_terminal());
        let builder = builder.with_filter_reloading();
        let filter = builder.reload_handle();
        let _ = RELEVEL.set(Box::new(move |level| drop(filter.reload(self::filter(level)))));
        builder.try_init()
    };
}

/// Pingora logs every disconnect and pool event, and a socket that is a moment away as an error; what matters of them is in
/// our own lines.
fn filter(level: LogLevel) -> EnvFilter {
    let (level, pingora) = (level.as_str(), "pingora_core");
    EnvFilter::new(format!(
        "{level},{pingora}=warn,{pingora}::server::transfer_fd=off,pingora_proxy=warn,h2=warn,tokio_postgres=warn,refinery_core=warn"
    ))
}

type Relevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// The log is the process's, and so is its level.
static RELEVEL: OnceLock<Relevel> = OnceLock::new();

/// Logs this and worse from now on.
pub fn set_level(level: LogLevel) {
    if let Some(relevel) = RELEVEL.get() {
        relevel(level);
    }
}

/// Whether the line of each request is logged at this level.
pub fn has_lines(level: LogLevel) -> bool {
    matches!(level, LogLevel::Trace | LogLevel::Debug | LogLevel::Info)
}

/// What the line of one request says.
#[derive(Debug)]
pub struct Line<'a> {
    /// Request id.
    pub id: &'a str,
    /// HTTP method.
    pub method: &'a str,
    /// Route template, or `unmatched`.
    pub endpoint: &'a str,
    /// Status the caller saw.
    pub status: u16,
    /// `ok`, or the code of the refusal or of the early end.
    pub code: &'a str,
    /// API key.
    pub key_id: Option<&'a str>,
    /// Billed user.
    pub user_id: Option<&'a str>,
    /// Model as asked.
    pub model: Option<&'a str>,
    /// Provider that served.
    pub provider: Option<&'a str>,
    /// Whether the answer was a stream.
    pub streamed: bool,
    /// Calls to providers.
    pub attempts: u16,
    /// Tokens in and out.
    pub tokens: Option<(u64, u64)>,
    /// What it cost.
    pub cost: Option<MicroUsd>,
    /// Arrival to first byte of the answer.
    pub first_byte_ms: Option<u32>,
    /// Arrival to end.
    pub latency_ms: u32,
    /// For the log only: never a credential, a prompt or a body.
    pub error: Option<&'a str>,
}

/// The lines of finished requests, on their way to standard error.
#[derive(Debug)]
pub struct AccessLog {
    json: bool,
    on: AtomicBool,
    shards: [Mutex<Vec<u8>>; SHARDS],
    dropped: AtomicUsize,
}

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

impl AccessLog {
    /// `on`: the log level includes info.
    pub fn new(format: LogFormat, on: bool) -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(Vec::new()));
        Self {
            json: is_json(format),
            on: AtomicBool::new(on),
            shards,
            dropped: AtomicUsize::new(0),
        }
    }

    /// Whether lines are written from now on.
    pub fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Queues a line; never waits for the reader of the log.
    pub fn push(&self, line: &Line<'_>) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let mut shard = self.shards[SHARD.with(|at| *at)].lock();
        if shard.len() > MAX_SHARD_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.json {
            line.write_json(&mut shard);
        } else {
            // Writing to a vector cannot fail.
            let _ = line.write_text(&mut shard);
        }
        shard.push(b'\n');
    }

    /// Writes what is queued. Blocks on standard error.
    pub fn flush(&self) {
        let mut err = std::io::stderr().lock();
        for shard in &self.shards {
            let lines = std::mem::take(&mut *shard.lock());
            if !lines.is_empty() && err.write_all(&lines).is_err() {
                return;
            }
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "request lines were dropped: the log is not read fast enough");
        }
    }

    /// Flushes for as long as the process lives. Run on a thread of its own.
    pub fn run(&self) {
        loop {
            std::thread::sleep(EVERY);
            self.flush();
        }
    }
}

impl Line<'_> {
    /// By hand: the formatting machinery costs more than everything else the line is made of.
    fn write_json(&self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        put(out, &[r#"{"timestamp":""#]);
        put_time(out);
        put(out, &[r#"","level":"INFO","message":"request finished","request.id":""#, self.id]);
        put(out, &[r#"","http.method":""#, self.method, r#"","http.route":""#, self.endpoint]);
        put(out, &[r#"","http.status":"#, digits.format(self.status)]);
        put(out, &[r#","code":""#, self.code, "\""]);
        let texts = [
            (r#","caller.key_id":"#, self.key_id),
            (r#","caller.user_id":"#, self.user_id),
            (r#","model":"#, self.model),
            (r#","upstream.provider":"#, self.provider),
            (r#","error":"#, self.error),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                put(out, &[name]);
                // What callers send is escaped.
                write_text(out, text);
            }
        }
        put(out, &[r#","streamed":"#, if self.streamed { "true" } else { "false" }]);
        put(out, &[r#","attempts":"#, digits.format(self.attempts)]);
        if let Some((input, output)) = self.tokens {
            put(out, &[r#","input_tokens":"#, digits.format(input)]);
            put(out, &[r#","output_tokens":"#, digits.format(output)]);
        }
        if let Some(cost) = self.cost {
            put(out, &[r#","cost_usd":"#]);
            put_cost(out, cost);
        }
        if let Some(first) = self.first_byte_ms {
            put(out, &[r#","first_byte_ms":"#, digits.format(first)]);
        }
        put(out, &[r#","latency_ms":"#, digits.format(self.latency_ms), "}"]);
    }

    fn write_text(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        write!(out, "{} {} {} {}", clock::now(), self.status, self.method, self.endpoint)?;
        for text in [self.model, self.provider, self.user_id].into_iter().flatten() {
            write!(out, " {}", text.escape_debug())?;
        }
        if let Some((input, output)) = self.tokens {
            write!(out, " {input}+{output} tokens")?;
        }
        if let Some(cost) = self.cost {
            write!(out, " ${cost}")?;
        }
        if let Some(first) = self.first_byte_ms {
            write!(out, " first byte {first} ms")?;
        }
        write!(out, " {} ms", self.latency_ms)?;
        if self.code != "ok" {
            write!(out, " {}", self.code)?;
        }
        if let Some(error) = self.error {
            write!(out, " ({})", error.escape_debug())?;
        }
        write!(out, " id={}", self.id)
    }
}

fn put(out: &mut Vec<u8>, texts: &[&str]) {
    texts.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
}

/// The amount as it prints.
fn put_cost(out: &mut Vec<u8>, MicroUsd(micros): MicroUsd) {
    let (mut whole, mut fraction) = (itoa::Buffer::new(), itoa::Buffer::new());
    let amount = micros.unsigned_abs();
    let sign = if micros < 0 { "-" } else { "" };
    // A leading one keeps the zeros.
    let fraction = fraction.format(1_000_000 + amount % 1_000_000);
    put(out, &[sign, whole.format(amount / 1_000_000), ".", &fraction[1..]]);
}

/// Now, as RFC 3339 with microseconds. The part up to the second is made once a second and thread.
fn put_time(out: &mut Vec<u8>) {
    thread_local! {
        static SECOND: Cell<(i64, [u8; 19])> = const { Cell::new((i64::MIN, [0; 19])) };
    }
    let now_us = clock::now_us();
    let (second, micros) = (now_us.div_euclid(1_000_000), now_us.rem_euclid(1_000_000));
    let (known, mut text) = SECOND.get();
    if known != second {
        let shown = clock::timestamp(second * 1_000_000).strftime("%Y-%m-%dT%H:%M:%S").to_string();
        // Nineteen characters until the year 10000.
        if let Ok(shown) = shown.as_bytes().try_into() {
            text = shown;
            SECOND.set((second, text));
        }
    }
    out.extend_from_slice(&text);
    // A leading one keeps the zeros.
    let mut digits = itoa::Buffer::new();
    let fraction = digits.format(1_000_000 + micros);
    put(out, &[".", &fraction[1..], "Z"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_is_json_whatever_the_caller_sends() {
        let line = Line {
            id: "r",
            method: "POST",
            endpoint: "/v1/chat/completions",
            status: 200,
            code: "ok",
            key_id: None,
            user_id: Some("a\"b\n"),
            model: Some("m\u{1b}[31m"),
            provider: None,
            streamed: true,
            attempts: 1,
            tokens: Some((1, 2)),
            cost: Some(MicroUsd(1_500_000)),
            first_byte_ms: Some(3),
            latency_ms: 4,
            error: None,
        };
        let mut out = Vec::new();
        line.write_json(&mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["caller.user_id"], "a\"b\n");
        assert_eq!(value["cost_usd"], 1.5);
        let mut text = Vec::new();
        line.write_text(&mut text).unwrap();
        assert!(!text.contains(&b'\n') && !text.contains(&0x1b), "no line breaks, no escapes");
    }
    #[test]
    fn a_cost_in_a_line_is_the_amount_as_it_prints() {
        for micros in [0, 1, -1, 999_999, 1_000_000, -1_500_000, 123_456_789, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_cost(&mut out, MicroUsd(micros));
            assert_eq!(String::from_utf8(out).unwrap(), MicroUsd(micros).to_string());
        }
    }
}
