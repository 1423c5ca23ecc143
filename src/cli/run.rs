//! Does what the arguments say; the exit code tells how it went.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Command, EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, InitDb};
use crate::app::{StartError, open_store};
use crate::config::{self, Config, Flags, Sources};
use crate::server::{self, Greeting};
use crate::store::StoreError;
use crate::telemetry::logs;
use crate::{demo, mock};

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
        Command::Serve(serve) => start(serve.config.clone(), serve.flags(), Greeting::default()),
        Command::Check(check) => {
            let sources = Sources::from_process(check.file(), Flags::default());
            super::check(&sources, &mut io::stdout().lock()).unwrap_or(EXIT_FAILED)
        }
        Command::Migrate(migrate) => migrate_schema(&migrate.target),
        Command::InitDb(init) => migrate_schema(&init),
        Command::Demo(options) => run_demo(&options),
        Command::Mock(options) => run_mock(&options),
    };
    ExitCode::from(code)
}

/// Says what went wrong on standard error.
fn complain(message: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "Error: {message}");
}

fn load(file: Option<PathBuf>, flags: Flags) -> Result<Config, u8> {
    config::load(&Sources::from_process(file, flags)).map_err(|error| {
        let mut err = io::stderr().lock();
        for warning in &error.warnings {
            let _ = writeln!(err, "warning: {warning}");
        }
        let _ = writeln!(err, "{error}");
        EXIT_CONFIG
    })
}

fn start(file: Option<PathBuf>, flags: Flags, greeting: Greeting) -> u8 {
    let config = match load(file, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    logs::start(config.log_format, config.log_level);
    match server::run(config, greeting) {
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

fn run_demo(options: &super::Demo) -> u8 {
    match demo::prepare(options.data.as_deref()) {
        Ok(prepared) => {
            let flags = Flags {
                host: Some("127.0.0.1".into()),
                port: Some(options.port),
                ..Flags::default()
            };
            let greeting = Greeting { demo_master_key: Some(prepared.master_key) };
            start(Some(prepared.file), flags, greeting)
        }
        Err(error) => {
            complain(&format!("the demo folder cannot be prepared: {error}"));
            EXIT_FAILED
        }
    }
}

fn migrate_schema(target: &InitDb) -> u8 {
    let config = match load(target.config.clone(), target.flags()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let migrated = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let store = open_store(&config.database).await?;
            let steps = store.migrate().await?;
            Ok((store.label().to_owned(), steps))
        })
    });
    match migrated {
        Ok((label, steps)) => {
            let mut out = io::stdout().lock();
            let _ = match steps {
                0 => writeln!(out, "{label}: up to date"),
                n => writeln!(out, "{label}: {n} steps applied, up to date"),
            };
            EXIT_OK
        }
        Err(error) => {
            complain(&format!("Migration failed: {error}"));
            EXIT_FAILED
        }
    }
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

type Failure = Box<dyn std::error::Error>;

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}
