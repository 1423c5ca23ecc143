//! What the gateway adds to a call: requests per second, p50 and p99, CPU per request and memory of the
//! real `otari` binary, standalone on SQLite and connected to a platform that answers at once, beside a direct call to
//! the mock provider and beside the smallest possible Pingora pass-through, in alternating rounds of one run.
//!
//! ```text
//! cargo bench --bench relay                                  # 5 rounds of 4 s
//! cargo bench --bench relay -- --smoke                       # 1 round of 1 s
//! cargo bench --bench relay -- --without-gateway --threads 2
//! ```
//!
//! `benches/README.md` says what each column means. Everything is on loopback; the mock, the platform and the
//! pass-through are this binary again, and every child ends with it.

#[path = "relay/connected.rs"]
mod connected;
#[path = "relay/gateway.rs"]
mod gateway;
#[path = "relay/load.rs"]
mod load;
#[path = "relay/process.rs"]
mod process;
#[path = "relay/report.rs"]
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use connected::Connected;
use gateway::Gateway;
use load::{Load, request};
use process::Process;
use report::{Report, Rows, Sample};

/// What any step here may fail with: a sentence for whoever runs the bench.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Load before each measurement, so that connections and caches are there.
const WARM_UP: Duration = Duration::from_millis(200);

#[derive(Parser)]
struct Arguments {
    /// One round of one second: does it run at all?
    #[arg(long)]
    smoke: bool,
    /// Measure the direct call and the bare pass-through only.
    #[arg(long)]
    without_gateway: bool,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 4.0)]
    secs: f64,
    /// Measurements of each target and scenario.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Connections of the closed loop.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Worker threads of the gateway and of the bare pass-through.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Only scenarios whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is to be.
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// Where the pass-through listens.
    #[arg(long, hide = true)]
    listen: Option<SocketAddr>,
    /// Where the pass-through sends to.
    #[arg(long, hide = true)]
    upstream: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Mock,
    Bare,
    Platform,
}

/// One kind of load.
pub(crate) struct Scenario {
    name: &'static str,
    /// Model name at the mock.
    model: &'static str,
    stream: bool,
    /// Size of the prompt.
    prompt_bytes: usize,
    /// `None`: as many as `--connections` says.
    connections: Option<usize>,
    /// Also to providers of other formats.
    is_translated: bool,
}

/// Providers of other formats than chat: the target's name, and the provider's in a model's name.
const TRANSLATED: [(&str, &str); 2] =
    [("otari, to messages", "messages:"), ("otari, to gemini", "gemini:")];

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "chat",
        model: "gpt",
        stream: false,
        prompt_bytes: 512,
        connections: None,
        is_translated: true,
    },
    Scenario {
        name: "chat, 1 connection",
        model: "gpt",
        stream: false,
        prompt_bytes: 512,
        connections: Some(1),
        is_translated: false,
    },
    // The role, 97 words, the finish and `[DONE]`.
    Scenario {
        name: "stream of 100 events",
        model: "gpt?chunks=97",
        stream: true,
        prompt_bytes: 512,
        connections: None,
        is_translated: true,
    },
    Scenario {
        name: "1 MB body",
        model: "gpt",
        stream: false,
        prompt_bytes: 1024 * 1024,
        connections: None,
        is_translated: false,
    },
];

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Mock) => process::run_mock(),
        Some(Role::Bare) => process::run_bare(
            arguments.listen.ok_or("--listen is missing")?,
            arguments.upstream.ok_or("--upstream is missing")?,
            arguments.threads,
        ),
        Some(Role::Platform) => process::run_platform(
            arguments.listen.ok_or("--listen is missing")?,
            arguments.upstream.ok_or("--upstream is missing")?,
        ),
        // One thread: the generator must not take the second core from what is measured.
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(measure(&arguments)),
    }
}

async fn measure(arguments: &Arguments) -> Outcome<()> {
    let (rounds, secs) =
        if arguments.smoke { (1, 1.0) } else { (arguments.rounds, arguments.secs) };
    let time = Duration::from_secs_f64(secs);
    let mock = Process::mock().await?;
    let bare = Process::bare(mock.address, arguments.threads).await?;
    let gateway = match arguments.without_gateway {
        true => None,
        false => Some(Gateway::start(mock.address, arguments.threads).await?),
    };
    let connected = match arguments.without_gateway {
        true => None,
        false => Some(Connected::start(mock.address, arguments.threads).await?),
    };
    let mut report = Report::new(arguments.threads, rounds, secs);
    let wanted =
        |name: &str| arguments.only.as_ref().is_none_or(|part| name.contains(part.as_str()));
    for scenario in SCENARIOS.iter().filter(|s| wanted(s.name)) {
        let connections = scenario.connections.unwrap_or(arguments.connections);
        let mut targets = vec![Target::Direct(&mock), Target::Bare(&bare)];
        targets.extend(gateway.as_ref().map(Target::Gateway));
        if scenario.is_translated {
            let to = |to| gateway.as_ref().map(|gateway| Target::Translated(gateway, to));
            targets.extend(TRANSLATED.iter().filter_map(to));
        }
        targets.extend(connected.as_ref().map(Target::Connected));
        for round in 0..rounds {
            // Nobody always goes first: neighbours on the machine come and go.
            targets.rotate_left(1);
            for target in &targets {
                let sample = target.measure(scenario, connections, time, round).await?;
                report.add(sample);
            }
        }
    }
    report.finish()
}

/// What a load is sent to.
enum Target<'a> {
    Direct(&'a Process),
    Bare(&'a Process),
    Gateway(&'a Gateway),
    /// The gateway, to a provider of another format.
    Translated(&'a Gateway, &'static (&'static str, &'static str)),
    Connected(&'a Connected),
}

impl Target<'_> {
    fn process(&self) -> &Process {
        match self {
            Self::Direct(process) | Self::Bare(process) => process,
            Self::Gateway(gateway) | Self::Translated(gateway, _) => &gateway.process,
            Self::Connected(gateway) => &gateway.process,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Direct(_) => report::DIRECT,
            Self::Bare(_) => report::BARE,
            Self::Gateway(_) => report::GATEWAY,
            Self::Translated(_, (name, _)) => name,
            Self::Connected(_) => report::CONNECTED,
        }
    }

    async fn measure(
        &self,
        scenario: &Scenario,
        connections: usize,
        time: Duration,
        round: u32,
    ) -> Outcome<Sample> {
        // A caller of its own for each round, so that its rows can be counted.
        let caller = match self {
            Self::Gateway(gateway) | Self::Translated(gateway, _) => Some(gateway.caller().await?),
            _ => None,
        };
        let (key, prefix) = match (self, &caller) {
            (Self::Translated(_, (_, prefix)), Some(caller)) => (caller.key.as_str(), *prefix),
            (_, Some(caller)) => (caller.key.as_str(), "mock:"),
            (Self::Connected(_), None) => ("tk_bench", "openai:"),
            _ => ("none", ""),
        };
        let reported = match self {
            Self::Connected(gateway) => gateway.reports().await?,
            _ => 0,
        };
        let body = scenario.body(prefix);
        let request = request("POST", "/v1/chat/completions", key, body.as_bytes());
        let process = self.process();
        let mut load = Load::new(process.address, request, connections);
        let tried = load.try_once(if scenario.stream { "data: [DONE]" } else { "lorem" }).await?;
        let warmed = load.run(WARM_UP).await?;
        let cpu = process.cpu()?;
        let run = load.run(time).await?;
        let used = process.cpu()? - cpu;
        let memory = process.memory()?;
        let rows = match (self, &caller) {
            (Self::Gateway(gateway) | Self::Translated(gateway, _), Some(caller)) => {
                let expected = tried.requests() + warmed.requests() + run.requests();
                let unsure = warmed.errors + run.errors;
                Some(Rows { expected, unsure, found: gateway.rows(caller, expected).await? })
            }
            (Self::Connected(gateway), _) => {
                let expected = tried.requests() + warmed.requests() + run.requests();
                let unsure = warmed.errors + run.errors;
                let found = gateway.reports_beyond(reported, expected).await?;
                Some(Rows { expected, unsure, found })
            }
            _ => None,
        };
        let settled = process.cpu()? - cpu;
        let per_request = |cpu: Duration| cpu.as_secs_f64() * 1e6 / run.requests().max(1) as f64;
        Ok(Sample {
            scenario: scenario.name,
            target: self.name(),
            round,
            requests: run.requests(),
            errors: run.errors,
            rps: run.requests() as f64 / run.time.as_secs_f64(),
            p50_us: run.latency.quantile_us(0.5),
            p99_us: run.latency.quantile_us(0.99),
            cpu_us: per_request(used),
            cpu_settled_us: per_request(settled),
            memory_mb: memory as f64 / 1e6,
            rows,
        })
    }
}

impl Scenario {
    fn body(&self, prefix: &str) -> String {
        let prompt = "Tell me a story. ".repeat(self.prompt_bytes.div_ceil(17));
        let prompt = &prompt[..self.prompt_bytes];
        format!(
            r#"{{"model":"{prefix}{}","messages":[{{"role":"user","content":"{prompt}"}}],"stream":{}}}"#,
            self.model, self.stream
        )
    }
}
