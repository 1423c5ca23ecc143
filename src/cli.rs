//! The command line: arguments in, a [`Command`] out. Nothing is read or started here, except by [`check`].
//!
//! Variables are only named in the help: `config::env` alone reads them, so that `--help` never shows a secret.

mod run;
mod client;
mod table;
mod manage;
mod import;
mod init;
mod providers;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{
    self, Config, CredentialSource, Database, Flags, LogFormat, LogLevel, Secret, Sources,
};

/// It worked.
pub const EXIT_OK: u8 = 0;
/// It failed.
pub const EXIT_FAILED: u8 = 1;
/// The arguments were wrong.
pub const EXIT_USAGE: u8 = 2;
/// The gateway, the database or a provider cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 69;
/// The gateway does not accept the key.
pub const EXIT_NOT_ALLOWED: u8 = 77;
/// The configuration is wrong.
pub const EXIT_CONFIG: u8 = 78;

const AFTER_HELP: &str = "\
Examples:
  otari demo                             try it without any account
  otari init                             write a first configuration
  otari check otari.yml                  say what is wrong with a configuration
  otari providers -c otari.yml           say which providers it has, and try to reach them
  otari serve -c otari.yml               serve it
  OPENAI_API_KEY=sk-... otari serve      serve without a file
  otari migrate -c otari.yml --dry-run   say what an upgrade of the database would do
  otari migrate -c otari.yml             bring the database up to date
  otari keys create --user-id ada        make a key, with OTARI_MASTER_KEY set

Every key of the file can also be set as OTARI_<KEY>, such as OTARI_PORT=9000.

Exit codes: 0 ok, 1 failed, 2 usage, 69 gateway or database unreachable, 77 not allowed, 78 configuration.";

/// An LLM gateway: one endpoint that speaks the OpenAI and Anthropic APIs in front of every provider.
#[derive(Debug, Parser)]
#[command(name = "otari", version, after_long_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve the gateway.
    Serve(Serve),
    /// Write a first configuration, from what is in the environment.
    Init(init::Init),
    /// Validate a configuration and say what would run.
    Check(Check),
    /// List the providers of a configuration, and whether they can be reached.
    Providers(providers::Providers),
    /// Bring the database schema up to date.
    Migrate(Migrate),
    /// Create the database: the same as `migrate`.
    InitDb(InitDb),
    /// Serve with the built-in mock provider, everything in one folder.
    Demo(Demo),
    /// Make, list, rotate and revoke the API keys of a running gateway.
    Keys(manage::keys::Keys),
    /// Manage the users of a running gateway.
    Users(manage::users::Users),
    /// Manage the budgets of a running gateway.
    Budgets(manage::budgets::Budgets),
    /// List the calls of a running gateway, or sum them up.
    Usage(manage::usage::Usage),
    /// Bring prices from a file into a running gateway.
    Import(import::Import),
    /// Read one document from standard input: what the gateway calls itself with.
    #[command(hide = true)]
    ReadDocument,
    /// Serve the mock provider alone.
    #[command(hide = true)]
    Mock(Mock),
    /// Serve a platform to test connected mode against.
    #[command(hide = true)]
    MockPlatform(MockPlatform),
}

/// `otari serve`.
#[derive(Clone, Debug, Default, Args)]
pub struct Serve {
    /// Configuration file [default: none, only variables and defaults]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on [variable: OTARI_HOST] [default: 0.0.0.0]
    #[arg(long, help_heading = "Network")]
    pub host: Option<String>,
    /// Pingora's own configuration file: threads, pools, grace [variable: OTARI_PINGORA_CONF] [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub pingora_conf: Option<PathBuf>,
    /// Port to listen on, 0 for any free one [variable: OTARI_PORT] [default: 8000]
    #[arg(long, help_heading = "Network")]
    pub port: Option<u16>,
    /// Accepted for compatibility: threads do the work [default: 1]
    #[arg(long, value_name = "N", help_heading = "Network")]
    pub workers: Option<u32>,
    /// Database [variables: DATABASE_URL, OTARI_DATABASE_URL] [default: sqlite:///./otari-gateway.db]
    #[arg(long, value_name = "URL", help_heading = "Database", value_parser = secret)]
    pub database_url: Option<Secret>,
    /// Bring the schema up to date at start [variable: OTARI_AUTO_MIGRATE] [default]
    #[arg(long, help_heading = "Database", overrides_with = "no_auto_migrate")]
    pub auto_migrate: bool,
    /// Refuse to start on an older schema
    #[arg(long, help_heading = "Database", overrides_with = "auto_migrate")]
    pub no_auto_migrate: bool,
    /// Key for the management API; better given by its variable [variable: OTARI_MASTER_KEY]
    #[arg(long, value_name = "KEY", help_heading = "Access", value_parser = secret)]
    pub master_key: Option<Secret>,
    /// trace, debug, info, warn, error, or 10 to 50 [variable: OTARI_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Logging")]
    pub log_level: Option<LogLevel>,
    /// auto, text or json [variable: OTARI_LOG_FORMAT] [default: auto]
    #[arg(long, value_name = "FORMAT", help_heading = "Logging")]
    pub log_format: Option<LogFormat>,
}

impl Serve {
    /// What outranks the file.
    pub fn flags(&self) -> Flags {
        Flags {
            host: self.host.clone(),
            pingora_conf: self.pingora_conf.clone(),
            port: self.port,
            database_url: self.database_url.clone(),
            master_key: self.master_key.clone(),
            auto_migrate: (self.auto_migrate || self.no_auto_migrate).then_some(self.auto_migrate),
            workers: self.workers,
            log_level: self.log_level,
            log_format: self.log_format,
        }
    }
}

/// `otari check`.
#[derive(Clone, Debug, Default, Args)]
pub struct Check {
    /// Configuration file
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    /// The file, however it was given; `None` checks the variables alone.
    pub fn file(&self) -> Option<PathBuf> {
        self.file.clone().or_else(|| self.config.clone())
    }
}

/// `otari init-db`.
#[derive(Clone, Debug, Default, Args)]
pub struct InitDb {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database [variables: DATABASE_URL, OTARI_DATABASE_URL] [default: sqlite:///./otari-gateway.db]
    #[arg(long, value_name = "URL", value_parser = secret)]
    pub database_url: Option<Secret>,
}

impl InitDb {
    /// What outranks the file.
    pub fn flags(&self) -> Flags {
        Flags { database_url: self.database_url.clone(), ..Flags::default() }
    }
}

/// `otari migrate`.
#[derive(Clone, Debug, Args)]
pub struct Migrate {
    /// Which database.
    #[command(flatten)]
    pub target: InitDb,
    /// Schema to go to
    #[arg(long, value_name = "REV", default_value = "head", value_parser = revision)]
    pub revision: String,
    /// Say what would be done and what stands in its way, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `otari demo`.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Port to listen on, on this machine alone
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Folder for its configuration and database, made anew each time [default: ./otari-demo]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Connected mode: a built-in platform decides, and there is no database
    #[arg(long)]
    pub connected: bool,
}

/// `otari mock`.
#[derive(Clone, Debug, Args)]
pub struct Mock {
    /// Port to listen on, 0 for any free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
}

/// `otari mock-platform`.
#[derive(Clone, Debug, Args)]
pub struct MockPlatform {
    /// Port to listen on, 0 for any free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// What it answers, as JSON [default: one attempt per call, every report is taken]
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// The only gateway token to accept; outranks the script [default: any]
    #[arg(long, value_name = "TOKEN", value_parser = secret)]
    pub gateway_token: Option<Secret>,
    /// Where attempts lead that name no address; outranks the script [default: http://127.0.0.1:9100/v1]
    #[arg(long, value_name = "URL")]
    pub provider_base: Option<String>,
}

pub use run::main;

/// Reads the arguments, the program's name first.
///
/// # Errors
/// Usage mistakes, and `--help` and `--version`: `print()` writes each to its stream, `exit_code()` is 2 or 0.
pub fn parse<T: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = T>,
) -> Result<Command, clap::Error> {
    Cli::try_parse_from(arguments).map(|cli| cli.command)
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

fn revision(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-');
    if !text.is_empty() && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("Invalid revision format: {text}"))
}

/// Writes every warning and problem of a configuration to `out`, or what it would run. Returns the exit code.
///
/// # Errors
/// Those of `out`.
pub fn check(sources: &Sources, out: &mut dyn Write) -> io::Result<u8> {
    let (warnings, result) = match config::load(sources) {
        Ok(config) => (config.warnings.clone(), Ok(config)),
        Err(error) => (error.warnings.clone(), Err(error)),
    };
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    match result {
        Ok(config) => {
            summary(&config, out)?;
            Ok(EXIT_OK)
        }
        Err(error) => {
            writeln!(out, "{error}")?;
            Ok(EXIT_CONFIG)
        }
    }
}

fn summary(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let file = config.file.as_ref().map_or("no file".into(), |file| file.display().to_string());
    writeln!(out, "ok: {file}")?;
    let mode = if config.platform.is_some() { "hybrid (connected)" } else { "standalone" };
    writeln!(out, "mode       {mode}")?;
    let host = &config.listen.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    writeln!(out, "listen     http://{host}:{}", config.listen.port)?;
    if let Some(platform) = &config.platform {
        writeln!(out, "platform   {}", platform.base_url)?;
        return writeln!(out, "journal    {}", config.journal_dir.display());
    }
    match &config.database {
        Database::Sqlite { path } => writeln!(out, "database   sqlite {}", path.display())?,
        Database::Postgres { label, .. } => writeln!(out, "database   postgresql {label}")?,
    }
    match &config.files {
        Some(files) => writeln!(out, "files      {}", files.backend.label())?,
        None => writeln!(out, "files      off")?,
    }
    let providers: Vec<String> = config.providers.iter().map(describe).collect();
    let providers = if providers.is_empty() { "none".into() } else { providers.join(", ") };
    writeln!(out, "providers  {providers}")?;
    if !config.policies.is_empty() {
        let policies: Vec<&str> = config.policies.iter().map(|policy| &*policy.name).collect();
        writeln!(out, "routing    {}", policies.join(", "))?;
    }
    writeln!(out, "prices     {} in the file", config.pricing.len())?;
    let master_key = match config.master_key {
        Some(_) => "set",
        None => "not set: one is made at the first start",
    };
    writeln!(out, "master key {master_key}")
}

fn describe(provider: &config::ProviderConfig) -> String {
    let state = match &provider.credential {
        _ if !provider.kind.is_callable() => "not callable yet",
        CredentialSource::Machine => "credentials of this machine",
        CredentialSource::NotNeeded => "no key needed",
        CredentialSource::Missing => "no credential",
        _ if provider.from_environment => "key from the environment",
        _ => "key",
    };
    format!("{} ({state})", provider.instance)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::Env;

    fn serve(arguments: &str) -> Serve {
        match parse(format!("otari serve {arguments}").split_whitespace()) {
            Ok(Command::Serve(serve)) => serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_references_flags_are_understood() {
        let serve = serve(
            "-c a.yml --host ::1 --port 9000 --database-url sqlite:///x.db --master-key mk \
             --no-auto-migrate --workers 4 --log-level 30 --log-format json",
        );
        assert_eq!(serve.config, Some(PathBuf::from("a.yml")));
        let flags = serve.flags();
        assert_eq!(
            (flags.port, flags.workers, flags.auto_migrate),
            (Some(9000), Some(4), Some(false))
        );
        assert_eq!(flags.log_level, Some(LogLevel::Warn));
        assert_eq!(flags.log_format, Some(LogFormat::Json));
        assert_eq!(flags.master_key.map(|k| k.expose().to_owned()).as_deref(), Some("mk"));
    }

    #[test]
    fn the_last_of_two_opposite_flags_wins() {
        assert_eq!(serve("").flags().auto_migrate, None);
        assert_eq!(serve("--no-auto-migrate --auto-migrate").flags().auto_migrate, Some(true));
        assert_eq!(serve("--auto-migrate --no-auto-migrate").flags().auto_migrate, Some(false));
    }

    #[test]
    fn every_verb_is_there() {
        let parse = |line: &str| parse(line.split(' '));
        assert!(matches!(parse("otari check a.yml"), Ok(Command::Check(c)) if c.file().is_some()));
        assert!(
            matches!(parse("otari check -c a.yml"), Ok(Command::Check(c)) if c.file().is_some())
        );
        assert!(matches!(parse("otari migrate"), Ok(Command::Migrate(m)) if m.revision == "head"));
        assert!(matches!(parse("otari migrate"), Ok(Command::Migrate(m)) if !m.dry_run));
        assert!(matches!(parse("otari migrate --dry-run"), Ok(Command::Migrate(m)) if m.dry_run));
        assert!(matches!(parse("otari init-db --database-url x"), Ok(Command::InitDb(_))));
        assert!(matches!(parse("otari demo"), Ok(Command::Demo(d)) if d.port == 8000));
        assert!(matches!(parse("otari init"), Ok(Command::Init(i)) if !i.force));
        assert!(
            matches!(parse("otari providers --offline --check"), Ok(Command::Providers(p)) if !p.all)
        );
        for line in [
            "keys create",
            "keys list --limit 5",
            "keys show a",
            "keys rotate a",
            "keys revoke a --delete",
            "keys update a --is-active=false --clear expires-at",
            "users create --user-id a --blocked",
            "users list",
            "users show a",
            "users update a --alias b",
            "users delete a",
            "budgets create --max-budget -1",
            "budgets list",
            "budgets show a",
            "budgets update a --clear max-budget",
            "budgets delete a",
            "usage list --user-id a --user-id b",
            "usage --json summary --dimensions model",
            "import p.csv --dry-run --url http://h:1/v1 --json",
        ] {
            let parsed = parse(&format!("otari {line}"));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
        assert!(matches!(parse("otari mock --port 1"), Ok(Command::Mock(m)) if m.port == 1));
        assert!(
            matches!(parse("otari mock-platform"), Ok(Command::MockPlatform(m)) if m.port == 0)
        );
    }

    #[test]
    fn usage_mistakes_exit_with_2_and_help_with_0() {
        for (line, code) in [
            ("otari serv", 2),
            ("otari serve --prt 1", 2),
            ("otari serve --log-level 25", 2),
            ("otari migrate --revision a;b", 2),
            ("otari keys revok a", 2),
            ("otari keys revoke ..", 2),
            ("otari keys list --url ftp://a", 2),
            ("otari users create", 2),
            ("otari budgets create --max-budget much", 2),
            ("otari --version", 0),
            ("otari serve --help", 0),
        ] {
            assert_eq!(parse(line.split(' ')).unwrap_err().exit_code(), code, "{line}");
        }
        let help = parse(["otari", "--help"]).unwrap_err().to_string();
        assert!(help.contains("Exit codes: 0 ok") && !help.contains("\n  mock"), "{help}");
    }

    fn checked(file: &str, env: Env) -> (u8, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("otari.yml");
        std::fs::write(&path, file).unwrap();
        let mut out = Vec::new();
        let sources = Sources { file: Some(path.clone()), flags: Flags::default(), env };
        let code = check(&sources, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap().replace(&path.display().to_string(), "otari.yml");
        (code, out)
    }

    #[test]
    fn check_says_what_would_run() {
        let env = Env::from_pairs([("GROQ_API_KEY", "sk-groq")]);
        let file = "prot: 1\nhost: '::'\nmaster_key: mk-secret\nproviders:\n  openai: {api_key: sk-1}\n  xai:\n  ollama:\n  vllm:\n";
        let (code, out) = checked(file, env);
        assert_eq!(code, EXIT_OK);
        let expected = "\
warning: otari.yml:1:1  prot: unknown key, ignored. Did you mean \"port\"?
warning: otari.yml:6:3  provider \"xai\" has no credential: set providers.xai.api_key or XAI_API_KEY
ok: otari.yml
mode       standalone
listen     http://[::]:8000
database   sqlite ./otari-gateway.db
files      folder ./otari-files
providers  openai (key), xai (no credential), ollama (no key needed), vllm (no key needed), groq (key from the environment)
prices     0 in the file
master key set
";
        assert_eq!(out, expected);
    }

    #[test]
    fn check_prints_every_problem_and_exits_with_78() {
        let (code, out) = checked("port: x\nthreads: 0\n", Env::default());
        assert_eq!(code, EXIT_CONFIG);
        assert!(out.ends_with("2 problems. Nothing was started.\n"), "{out}");
    }
}
