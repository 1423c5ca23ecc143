//! What a call costs the gateway in instructions: the same number on a busy machine and on a quiet one, so that a test can
//! hold it to a budget. The real binary under callgrind, before the mock provider and the mock platform.
//!
//! ```text
//! make instructions                            # the optimised build, held to its budget
//! cargo test --bench instructions              # the unoptimised build, to its own: a part of `make test`
//! cargo bench --bench instructions -- --keep   # leaves callgrind's files in target/instructions, for callgrind_annotate
//! ```
//!
//! Counted is user space, the whole process with its writer and its timers, while 4 connections make calls; not the start.
//! Without the processor's own instructions for SHA, which callgrind does not know: 7,000 of a call are the key's digest.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use otari::mock;
use otari::mock::platform::{Platform, Script};
use serde_json::{Value, json};
use tempfile::TempDir;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Callers at once.
const CALLERS: u64 = 4;
/// Calls before the counting, so that pools, caches and statements are there.
const WARM_UP: u64 = 80;
/// Calls that are counted.
const CALLS: u64 = 400;
/// Behind the last answer, so that its record is written too.
const SETTLE: Duration = Duration::from_millis(1500);
/// Under callgrind everything takes fifty times as long, and an unoptimised build begins slowly.
const PATIENCE: Duration = Duration::from_secs(120);
/// Timers tick by the clock, so a slow machine counts a little more.
const TOLERANCE: f64 = 0.06;

const MASTER_KEY: &str = "bench-master-key-0123456789";

/// One number of the budget.
struct Budget {
    name: &'static str,
    connected: bool,
    /// At the mock.
    model: &'static str,
    stream: bool,
    /// Instructions of a call, optimised and not. Lower them with what you save; raise them with a reason.
    optimised: u64,
    unoptimised: u64,
}

const BUDGETS: [Budget; 4] = [
    Budget {
        name: "chat",
        connected: false,
        model: "gpt",
        stream: false,
        optimised: 195_000,
        unoptimised: 850_000,
    },
    Budget {
        name: "stream of 100 events",
        connected: false,
        model: "gpt?chunks=97",
        stream: true,
        optimised: 600_000,
        unoptimised: 2_500_000,
    },
    Budget {
        name: "chat, connected",
        connected: true,
        model: "gpt",
        stream: false,
        optimised: 190_000,
        unoptimised: 1_000_000,
    },
    Budget {
        name: "stream of 100 events, connected",
        connected: true,
        model: "gpt?chunks=97",
        stream: true,
        optimised: 650_000,
        unoptimised: 2_950_000,
    },
];

#[derive(Parser)]
struct Arguments {
    /// Only those whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Leave what callgrind wrote.
    #[arg(long)]
    keep: bool,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err("valgrind is missing: run make deps".into());
    }
    let mock = serve_mock()?;
    let platform = serve_platform(mock)?;
    let mut out = std::io::stdout();
    let is_optimised = !cfg!(debug_assertions);
    let build = if is_optimised { "optimised" } else { "unoptimised" };
    writeln!(out, "| Call ({build} build) | Instructions | Budget |\n|---|--:|--:|")?;
    let mut over = Vec::new();
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|part| name.contains(part));
    for budget in BUDGETS.iter().filter(|budget| wanted(budget.name)) {
        let allowed = if is_optimised { budget.optimised } else { budget.unoptimised };
        let counted = count(budget, mock, platform, arguments.keep)?;
        writeln!(out, "| {} | {counted} | {allowed} |", budget.name)?;
        if counted as f64 > allowed as f64 * (1.0 + TOLERANCE) {
            over.push(budget.name);
        }
    }
    match over.is_empty() {
        true => Ok(()),
        false => Err(format!("over the budget: {}. See benches/README.md", over.join("; ")).into()),
    }
}

/// Instructions of one call of this kind.
fn count(budget: &Budget, mock: SocketAddr, platform: SocketAddr, keep: bool) -> Outcome<u64> {
    let folder = tempfile::tempdir()?;
    let counted = folder.path().join("callgrind");
    let gateway = Gateway::start(&folder, &counted, budget.connected, mock, platform)?;
    let (key, model) = match budget.connected {
        true => ("tk_bench".to_owned(), format!("openai:{}", budget.model)),
        false => (gateway.key()?, format!("mock:{}", budget.model)),
    };
    let prompt = &"Tell me a story. ".repeat(31)[..512];
    let messages = json!([{"role": "user", "content": prompt}]);
    let body = json!({"model": model, "messages": messages, "stream": budget.stream}).to_string();
    let call = request("POST", "/v1/chat/completions", &key, &body);
    gateway.calls(&call, WARM_UP)?;
    gateway.instrument("on")?;
    gateway.calls(&call, CALLS)?;
    thread::sleep(SETTLE);
    gateway.instrument("off")?;
    gateway.end()?;
    let total = total(&counted)?;
    if keep {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/instructions");
        fs::create_dir_all(&kept)?;
        fs::copy(&counted, kept.join(budget.name.replace([' ', ','], "-")))?;
    }
    Ok(total / CALLS)
}

/// What callgrind counted.
fn total(file: &Path) -> Outcome<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"));
    Ok(line.ok_or("callgrind wrote no total")?.trim().parse()?)
}

/// The gateway under callgrind; ends when dropped.
struct Gateway {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Gateway {
    fn start(
        folder: &TempDir,
        counted: &Path,
        connected: bool,
        mock: SocketAddr,
        platform: SocketAddr,
    ) -> Outcome<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (folder, log) = (folder.path(), folder.path().join("otari.log"));
        let base = format!("http://{platform}/api/v1");
        let env: &[(&str, &str)] = match connected {
            true => &[("OTARI_AI_TOKEN", "gw_bench"), ("PLATFORM_BASE_URL", &base)],
            false => &[],
        };
        let mut config = json!({
            "host": address.ip().to_string(),
            "port": address.port(),
            "threads": 1,
            "journal_dir": folder.join("journal"),
        });
        if !connected {
            config["database_url"] =
                format!("sqlite:///{}", folder.join("otari.db").display()).into();
            config["master_key"] = MASTER_KEY.into();
            config["bootstrap_api_key"] = false.into();
            config["rate_limit_rpm"] = 1_000_000_000.into();
            config["providers"] = json!({"mock": {"provider_type": "openai",
                "api_base": format!("http://{mock}/v1"), "api_key": "x"}});
            let prices = BUDGETS.iter().map(|budget| {
                let price =
                    json!({"input_price_per_million": 0.15, "output_price_per_million": 0.6});
                (format!("mock:{}", budget.model), price)
            });
            config["pricing"] = Value::Object(prices.collect());
        }
        fs::write(folder.join("otari.yml"), config.to_string())?;
        let out = fs::File::create(&log)?;
        let child = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", "--instr-atstart=no"])
            .arg(format!("--callgrind-out-file={}", counted.display()))
            .arg(env!("CARGO_BIN_EXE_otari"))
            .args(["serve".as_ref(), "--config".as_ref(), folder.join("otari.yml").as_os_str()])
            .current_dir(folder)
            .env_clear()
            .envs(env.iter().copied())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()?;
        let mut gateway = Self { child, address, log };
        gateway.until_listening()?;
        Ok(gateway)
    }

    fn until_listening(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            if Instant::now() > deadline || self.child.try_wait()?.is_some() {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(format!("the gateway did not start:\n{log}").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A key of a user with a budget.
    fn key(&self) -> Outcome<String> {
        let ask = |path: &str, body: Value| -> Outcome<Value> {
            let request = request("POST", path, MASTER_KEY, &body.to_string());
            let (_, answer) = exchange(&mut connect(self.address)?, &request)?;
            Ok(serde_json::from_slice(&answer)?)
        };
        let budget = ask("/v1/budgets", json!({"max_budget": 1e9}))?;
        ask("/v1/users", json!({"user_id": "bench", "budget_id": budget["budget_id"]}))?;
        let key = ask("/v1/keys", json!({"user_id": "bench", "key_name": "bench"}))?;
        Ok(key["key"].as_str().ok_or("no key in the answer")?.to_owned())
    }

    /// So many calls, by several callers at once.
    fn calls(&self, call: &[u8], count: u64) -> Outcome<()> {
        thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    scope.spawn(|| -> Outcome<()> {
                        let mut connection = connect(self.address)?;
                        for _ in 0..count / CALLERS {
                            exchange(&mut connection, call)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            callers
                .into_iter()
                .try_for_each(|caller| caller.join().map_err(|_| "a caller panicked")?)
        })
    }

    /// Switches the counting `on` or `off`.
    fn instrument(&self, to: &str) -> Outcome<()> {
        let control = Command::new("callgrind_control")
            .args(["-i", to, &self.child.id().to_string()])
            .stdout(Stdio::null())
            .status()?;
        if control.success() { Ok(()) } else { Err("callgrind_control failed".into()) }
    }

    /// Asks it to leave, and waits.
    fn end(mut self) -> Outcome<()> {
        let id = i32::try_from(self.child.id())?;
        let process = rustix::process::Pid::from_raw(id).ok_or("no process")?;
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err("the gateway does not leave".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It has usually ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn request(method: &str, path: &str, key: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\naccept: application/json\r\n\
         user-agent: otari-bench/1\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends a request and reads its answer, which must be a success: the head and the body as it came.
fn exchange(connection: &mut TcpStream, request: &[u8]) -> Outcome<(String, Vec<u8>)> {
    connection.write_all(request)?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 * 1024]);
    let mut read = |bytes: &mut Vec<u8>| -> Outcome<()> {
        match connection.read(&mut piece)? {
            0 => Err("the gateway closed the connection".into()),
            n => {
                bytes.extend_from_slice(&piece[..n]);
                Ok(())
            }
        }
    };
    let end = loop {
        match memchr::memmem::find(&bytes, b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => read(&mut bytes)?,
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(format!("the gateway answered {}", String::from_utf8_lossy(&bytes)).into());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    match length.map(|length| length.trim().parse::<usize>()).transpose()? {
        Some(length) => {
            while bytes.len() < end + length {
                read(&mut bytes)?;
            }
        }
        None => {
            while !bytes.ends_with(b"\r\n0\r\n\r\n") {
                read(&mut bytes)?;
            }
        }
    }
    Ok((head, bytes.split_off(end)))
}

/// Starts the mock provider in this process.
fn serve_mock() -> Outcome<SocketAddr> {
    serve(|listener| async move { mock::serve(listener, std::future::pending()).await })
}

/// Starts a platform in this process that sends every call to `upstream`.
fn serve_platform(upstream: SocketAddr) -> Outcome<SocketAddr> {
    let mut script = Script { keep: false, ..Script::default() };
    script.default_provider.provider = "openai".to_owned();
    script.default_provider.api_base = Some(format!("http://{upstream}/v1"));
    serve(
        |listener| async move { Platform::new(script).serve(listener, std::future::pending()).await },
    )
}

/// A server on a thread and a port of its own, for as long as this process lives.
fn serve<F: Future<Output = std::io::Result<()>>>(
    server: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { server(tokio::net::TcpListener::from_std(listener)?).await })
    });
    Ok(address)
}
