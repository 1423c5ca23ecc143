//! `otari demo`: everything a newcomer needs, in one folder, with the mock provider.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::first_run;

/// The folder when none is named.
const FOLDER: &str = "otari-demo";

/// The configuration of a demo, and the master key in it.
pub struct Demo {
    /// The file, written when it was missing.
    pub file: PathBuf,
    /// To be shown in the lines to paste.
    pub master_key: String,
}

/// Prepares the folder. A configuration that is there is kept; the database of the last demo is not, so that every demo
/// begins with its first minute.
///
/// # Errors
/// When the folder cannot be written.
pub fn prepare(folder: Option<&Path>) -> io::Result<Demo> {
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
    let master_key = first_run::new_master_key().map_err(io::Error::other)?;
    remove(&file)?;
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
    let folder = fs::canonicalize(&folder)?;
    write!(out, "{}", config(&folder, &master_key))?;
    Ok(Demo { file, master_key })
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
