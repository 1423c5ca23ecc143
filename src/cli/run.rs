//! Does what the arguments say; the exit code tells how it went.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Command, EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, InitDb, Migrate};
use super::{import, init, manage, providers};
use crate::app::{StartError, open_store, rehearse};
use crate::config::{self, Config, ConfigError, Flags, Program, Sources, Supervisor};
use crate::mock::platform::{BASE_PATH, Platform, Script};
use crate::server::{self, Beside, Given};
use crate::store::{StoreError, Upgrade};
use crate::telemetry::{logs, panics};
use crate::{demo, documents, mock};

/// Runs the program.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let command = match super::parse(arguments) {
        Ok(command) => command,
        Err(error) => {
            // Help and version go to standard output, mistakes to standard error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(super::EXIT_USAGE));
        }
    };
    // One crypto provider for every client and listener; a second call, in tests, changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let code = match command {
        Command::Serve(serve) => start(
            move || Sources::from_process(serve.config.clone(), serve.flags()),
            Beside::default(),
        ),
        Command::Check(check) => {
            let sources = Sources::from_process(check.file(), Flags::default());
            super::check(&sources, &mut io::stdout().lock()).unwrap_or(EXIT_FAILED)
        }
        Command::Providers(options) => {
            providers::run(&options, || load(options.config.clone(), Flags::default()))
        }
        Command::Migrate(migrate) => migrate_schema(&migrate),
        Command::InitDb(init) => init_db(&init),
        Command::Demo(options) => run_demo(&options),
        Command::ReadDocument => read_document(),
        Command::Mock(options) => run_mock(&options),
        Command::MockPlatform(options) => run_mock_platform(&options),
        Command::Init(options) => init::run(&options),
        Command::Import(options) => import::run(&options),
        Command::Keys(keys) => {
            manage::run(&keys.gateway, |session| manage::keys::run(&keys.verb, session))
        }
        Command::Users(users) => {
            manage::run(&users.gateway, |session| manage::users::run(&users.verb, session))
        }
        Command::Budgets(budgets) => {
            manage::run(&budgets.gateway, |session| manage::budgets::run(&budgets.verb, session))
        }
        Command::Usage(usage) => {
            manage::run(&usage.gateway, |session| manage::usage::run(&usage.verb, session))
        }
    };
    ExitCode::from(code)
}

/// Says what went wrong on standard error.
fn complain(message: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "Error: {message}");
}

fn load(file: Option<PathBuf>, flags: Flags) -> Result<Config, u8> {
    load_from(&Sources::from_process(file, flags))
}

fn load_from(sources: &Sources) -> Result<Config, u8> {
    said(config::load(sources))
}

/// Says what is wrong on standard error.
fn said<T>(loaded: Result<T, ConfigError>) -> Result<T, u8> {
    loaded.map_err(|error| {
        let mut err = io::stderr().lock();
        for warning in &error.warnings {
            let _ = writeln!(err, "warning: {warning}");
        }
        let _ = writeln!(err, "{error}");
        EXIT_CONFIG
    })
}

/// A configuration with a database: in connected mode there is none to work on.
fn load_standalone(target: &InitDb) -> Result<Config, u8> {
    let config = load(target.config.clone(), target.flags())?;
    if config.platform.is_none() {
        return Ok(config);
    }
    complain(
        &"connected mode has no database. Unset the platform's token (OTARI_AI_TOKEN) to work on that of standalone mode.",
    );
    Err(EXIT_CONFIG)
}

fn start(sources: impl Fn() -> Sources + Send + Sync + 'static, beside: Beside) -> u8 {
    let program = Program::of_process().map_err(|error| error.to_string());
    let read = sources();
    let (config, written) = match said(config::load_written(&read)) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::start(config.log_format, config.log_level);
    panics::install();
    no_core_dumps();
    let parent = std::os::unix::process::parent_id();
    let supervisor = Supervisor::read(&read.env, std::process::id(), parent);
    let given = Given { config, written, reread: Box::new(sources), supervisor, program };
    match server::run(given, beside) {
        Ok(()) => EXIT_OK,
        Err(error) => {
            complain(&error);
            match error {
                StartError::Store { source: StoreError::Unavailable { .. }, .. } => {
                    EXIT_UNREACHABLE
                }
                _ => EXIT_FAILED,
            }
        }
    }
}

/// What is in memory, keys above all, is not to be written to a disk when the process crashes.
fn no_core_dumps() {
    // Not 0: Linux pipes a dump to the program that `core_pattern` names whatever the limit is, unless it is 1. No dump
    // is as short as a byte, so there is no file either.
    let allowed = getrlimit(Resource::Core).maximum.map_or(1, |most| most.min(1));
    let none = Rlimit { current: Some(allowed), maximum: Some(allowed) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
}

fn run_demo(options: &super::Demo) -> u8 {
    match demo::prepare(options.data.as_deref(), options.connected) {
        Ok(demo) => {
            let flags = Flags {
                host: Some("127.0.0.1".into()),
                port: Some(options.port),
                ..Flags::default()
            };
            let env = match &demo.kind {
                demo::Kind::Standalone { .. } => None,
                demo::Kind::Connected(peers) => Some(peers.env()),
            };
            let (file, flags) = (Some(demo.file), flags);
            let sources = move || match &env {
                None => Sources::from_process(file.clone(), flags.clone()),
                Some(env) => Sources { file: file.clone(), flags: flags.clone(), env: env.clone() },
            };
            start(sources, Beside { demo: Some(demo.kind) })
        }
        Err(error) => {
            complain(&format!("the demo folder cannot be prepared: {error}"));
            EXIT_FAILED
        }
    }
}

fn read_document() -> u8 {
    match documents::child(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => EXIT_OK,
        Err(error) => {
            complain(&error);
            EXIT_FAILED
        }
    }
}

fn migrate_schema(migrate: &Migrate) -> u8 {
    let config = match load_standalone(&migrate.target) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let verb = if migrate.dry_run { "Rehearsing migrations" } else { "Running migrations" };
    say(&format!("{verb} on: {}\nTarget revision: {}", config.database.label(), migrate.revision));
    // The names of the reference's own heads are in scripts that come from it; we end beyond both.
    if !["head", "c3d5e7f9a1b3", "c4d7f2a9b6e1"].contains(&migrate.revision.as_str()) {
        complain(
            &"Migration failed: this binary migrates to its own schema only; leave --revision out",
        );
        return EXIT_FAILED;
    }
    let done = upgrade(&config, migrate.dry_run);
    match done {
        Ok(upgrade) if migrate.dry_run => {
            say(&format!("{upgrade}\nNothing was changed: a dry run. It would work."));
            EXIT_OK
        }
        Ok(upgrade) => {
            say(&format!("{upgrade}\nMigrations completed successfully!"));
            EXIT_OK
        }
        Err(error) => {
            complain(&format!("Migration failed: {error}"));
            EXIT_FAILED
        }
    }
}

fn init_db(target: &InitDb) -> u8 {
    let config = match load_standalone(target) {
        Ok(config) => config,
        Err(code) => return code,
    };
    say(&format!("Initializing database: {}", config.database.label()));
    match upgrade(&config, false) {
        Ok(upgrade) => {
            say(&format!("{upgrade}\nDatabase initialized successfully!"));
            EXIT_OK
        }
        Err(error) => {
            complain(&format!("Database initialization failed: {error}"));
            EXIT_FAILED
        }
    }
}

fn upgrade(config: &Config, rehearsal: bool) -> Result<Upgrade, Failure> {
    runtime()?.block_on(async {
        if rehearsal {
            return Ok(rehearse(&config.database).await?);
        }
        Ok(open_store(&config.database).await?.upgrade().await?)
    })
}

/// Says what was done on standard output.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn run_mock(options: &super::Mock) -> u8 {
    let served = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let address = (options.host.as_str(), options.port);
            let listener = tokio::net::TcpListener::bind(address).await?;
            writeln!(
                io::stdout(),
                "mock provider listening on http://{}/v1",
                listener.local_addr()?
            )?;
            let options = mock::Options { record: true };
            mock::serve_with(listener, options, std::future::pending()).await?;
            Ok(())
        })
    });
    match served {
        Ok(()) => EXIT_OK,
        Err(error) => {
            complain(&error);
            EXIT_FAILED
        }
    }
}

fn run_mock_platform(options: &super::MockPlatform) -> u8 {
    let served = platform_script(options).and_then(|script| {
        runtime()?.block_on(async {
            let address = (options.host.as_str(), options.port);
            let listener = tokio::net::TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            say(&format!("mock platform listening on http://{address}{BASE_PATH}"));
            Platform::new(script).serve(listener, std::future::pending()).await?;
            Ok(())
        })
    });
    match served {
        Ok(()) => EXIT_OK,
        Err(error) => {
            complain(&error);
            EXIT_FAILED
        }
    }
}

fn platform_script(options: &super::MockPlatform) -> Result<Script, Failure> {
    let mut script = match &options.script {
        None => Script::default(),
        Some(file) => std::fs::read(file)
            .map_err(|error| error.to_string())
            .and_then(|text| Script::from_json(&text))
            .map_err(|error| format!("{}: {error}", file.display()))?,
    };
    if let Some(token) = &options.gateway_token {
        script.gateway_token = Some(token.expose().to_owned());
    }
    if let Some(base) = &options.provider_base {
        script.default_provider.api_base = Some(base.clone());
    }
    Ok(script)
}

type Failure = Box<dyn std::error::Error>;

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}
