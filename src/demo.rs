//! `otari demo`: everything a newcomer needs, in one folder, with the mock provider, and with the mock platform for
//! connected mode.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::Env;
use crate::first_run;
use crate::mock::platform::{BASE_PATH, Script};

/// The folder when none is named.
const FOLDER: &str = "otari-demo";

/// What a platform would know the demo's gateway by.
const GATEWAY_TOKEN: &str = "gw_demo";

/// The configuration of a demo.
pub struct Demo {
    /// The file, written anew.
    pub file: PathBuf,
    /// What its gateway has beside it.
    pub kind: Kind,
}

/// Which of the two modes is shown.
pub enum Kind {
    /// The gateway decides.
    Standalone {
        /// To be shown in the lines to paste.
        master_key: String,
    },
    /// A platform decides.
    Connected(Peers),
}

/// A platform and a provider, on loopback ports of their own.
pub struct Peers {
    /// The built-in provider.
    pub provider: TcpListener,
    /// The built-in platform.
    pub platform: TcpListener,
    /// What the platform sends every request to.
    pub script: Script,
    /// The platform's address, without the path of its API.
    pub platform_url: String,
}

impl Peers {
    fn bind() -> io::Result<Self> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            io::Result::Ok((listener, format!("http://{address}")))
        };
        let ((provider, provider_url), (platform, platform_url)) = (listen()?, listen()?);
        let mut script =
            Script { gateway_token: Some(GATEWAY_TOKEN.to_owned()), ..Script::default() };
        script.default_provider.provider = "mock".to_owned();
        script.default_provider.api_base = Some(format!("{provider_url}/v1"));
        Ok(Self { provider, platform, script, platform_url })
    }

    /// The whole environment of the gateway: that of this process may name another platform.
    pub fn env(&self) -> Env {
        let base = format!("{}{BASE_PATH}", self.platform_url);
        Env::from_pairs([("OTARI_AI_TOKEN", GATEWAY_TOKEN), ("PLATFORM_BASE_URL", &*base)])
    }
}

/// Prepares the folder. A configuration that is there is kept; the database of the last demo is not, so that every demo
/// begins with its first minute.
///
/// # Errors
/// When the folder cannot be written.
pub fn prepare(folder: Option<&Path>, connected: bool) -> io::Result<Demo> {
    let folder = folder.map_or_else(|| PathBuf::from(FOLDER), Path::to_owned);
    let journal = folder.join("otari-journal");
    fs::create_dir_all(&journal)?;
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(journal.join("lock"))?;
    if lock.try_lock().is_err() {
        let message =
            format!("a demo is running in {}; stop it or name another --data", folder.display());
        return Err(io::Error::other(message));
    }
    fs::remove_dir_all(&journal)?;
    for old in ["otari.db", "otari.db-wal", "otari.db-shm"] {
        remove(&folder.join(old))?;
    }
    let file = folder.join("config.yml");
    remove(&file)?;
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
    let folder = fs::canonicalize(&folder)?;
    let kind = if connected {
        write!(out, "{}", connected_config(&folder))?;
        Kind::Connected(Peers::bind()?)
    } else {
        let master_key = first_run::new_master_key().map_err(io::Error::other)?;
        write!(out, "{}", config(&folder, &master_key))?;
        Kind::Standalone { master_key }
    };
    Ok(Demo { file, kind })
}

fn connected_config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"# Written by `otari demo --connected`; every demo writes it anew. The token and the platform's address come from
# the environment: OTARI_AI_TOKEN and PLATFORM_BASE_URL.
journal_dir: "{folder}/otari-journal"
enable_metrics: true
"#
    )
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn config(folder: &Path, master_key: &str) -> String {
    let folder = folder.display();
    format!(
        r#"# Written by `otari demo`; every demo writes it anew. Copy it to start a configuration of your own.
mode: standalone
database_url: "sqlite:///{folder}/otari.db"
master_key: "{master_key}"
enable_metrics: true

providers:
  # The provider inside the gateway: no account, no cost, deterministic answers.
  mock:
    provider_type: mock

# Models of real providers that are added here are billed at public list prices until they have a price of their own.
default_pricing: true

pricing:
  mock:demo:
    input_price_per_million: 1.0
    output_price_per_million: 4.0
"#
    )
}
