//! Reading the configuration again while the gateway runs: at `SIGHUP`, and when one of its files changes.
//!
//! Everything is read and checked first; then it is put into effect in one step, or not at all. Calls under way keep what
//! they began with: their providers, prices and times are theirs.

mod takeover;
mod standalone;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::Mutex;

use crate::app::{App, Mode};
use crate::config::{self, Change, Config, ConfigError, CredentialSource, Sources, Written};
use crate::control::local::RateLimiter;
use crate::telemetry::logs;
use watch::Watch;

/// A file that has just changed may not be whole yet: it is looked at again after so long.
const SETTLE: Duration = Duration::from_millis(500);
/// A reading waits for disks and the database; one that takes longer has failed.
const AT_MOST: Duration = Duration::from_secs(60);

/// Gives the sources of the start anew, with what their files hold now.
pub type Reread = Box<dyn Fn() -> Sources + Send + Sync>;

/// Reads the configuration again.
pub struct Reloader {
    app: Arc<App>,
    sources: Arc<Reread>,
    read: Mutex<Read>,
    told: Told,
}

/// Whoever is told that a reading begins and ends.
pub trait Telling: Send + Sync {
    /// It begins.
    fn reloading(&self);
    /// It has ended, and calls are served.
    fn ready(&self, status: &str);
}

/// See [`Telling`].
pub type Told = Box<dyn Telling>;

/// What was read.
struct Read {
    /// At start: what needs a restart is as it was then.
    first: Written,
    last: Written,
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum Refused {
    /// The configuration is wrong.
    Config(ConfigError),
    /// It cannot be put into effect.
    Other(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const OUTCOME: &str = "Nothing was changed.";
        match self {
            Self::Config(error) => f.write_str(&error.listing(OUTCOME)),
            Self::Other(why) => write!(f, "{why}. {OUTCOME}"),
        }
    }
}

/// What a reading changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Paths and values, never a secret.
    pub changed: Vec<String>,
    /// Keys that are different from those of the start, and need a restart.
    pub restart: Vec<&'static str>,
    /// What the operator should know besides.
    pub notes: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.changed.as_slice() {
            [] => f.write_str("nothing to put into effect")?,
            changed => f.write_str(&changed.join("; "))?,
        }
        if !self.restart.is_empty() {
            write!(f, "; restart needed for: {}", self.restart.join(", "))?;
        }
        Ok(())
    }
}

impl Reloader {
    /// Reads `sources` again for `app`, which was started with `written`.
    pub fn new(app: Arc<App>, sources: Reread, written: Written, told: Told) -> Self {
        let read = Mutex::new(Read { first: written.clone(), last: written });
        Self { app, sources: Arc::new(sources), read, told }
    }

    /// Reads again whenever told to, or a file changes, for as long as it is polled.
    pub async fn run(&self, mut hangup: Signal) {
        let mut watch = Watch::new(self.files());
        let mut pause = None;
        loop {
            let interval = self.app.live().limits.reload_interval;
            let every = pause.take().or((!interval.is_zero()).then_some(interval));
            let look = async {
                match every {
                    Some(every) => tokio::time::sleep(every).await,
                    None => std::future::pending().await,
                }
            };
            let is_due = tokio::select! {
                told = hangup.recv() => {
                    if told.is_none() {
                        return;
                    }
                    true
                }
                () = look => match watch.look() {
                    watch::Seen::Same => false,
                    watch::Seen::Moving => {
                        pause = Some(SETTLE);
                        false
                    }
                    watch::Seen::Changed => true,
                },
            };
            if is_due {
                // Before the reading: a change during it is another one.
                watch.note();
                self.reload().await;
                watch.follow(self.files());
            }
        }
    }

    /// Reads again and says in the log what became of it.
    pub async fn reload(&self) {
        let file = self.app.config.file.as_ref();
        let file = file.map_or("the configuration".to_owned(), |file| file.display().to_string());
        self.told.reloading();
        let read = tokio::time::timeout(AT_MOST, self.read_again()).await;
        let read =
            read.unwrap_or_else(|_| Err(Refused::Other("it could not be read in time".into())));
        self.app.metrics.reload.ended(read.is_ok());
        self.told.ready(match &read {
            Ok(_) => "serving",
            Err(_) => "serving; the configuration is wrong and was not read again",
        });
        match read {
            Ok(reloaded) => {
                for note in &reloaded.notes {
                    tracing::warn!("{note}");
                }
                tracing::info!("reloaded {file}: {reloaded}");
            }
            Err(refused) => tracing::error!("{file} was not reloaded: {refused}"),
        }
    }

    /// Reads again and puts it into effect.
    ///
    /// # Errors
    /// Every reason why not; then nothing has changed.
    pub async fn read_again(&self) -> Result<Reloaded, Refused> {
        let mut read = self.read.lock().await;
        let sources = self.sources.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load_written(&sources())).await;
        let loaded = loaded.map_err(|error| Refused::Other(error.to_string()))?;
        let (new, written) = loaded.map_err(Refused::Config)?;
        let old = self.app.live().clone();
        if new.platform.is_some() != old.platform.is_some() {
            let why = "the mode is another one, which needs a restart";
            return Err(Refused::Other(why.into()));
        }
        expired(&old, &new)?;
        let next = Arc::new(takeover::next(&old, &new));
        let mut reloaded = Reloaded::default();
        match &self.app.mode {
            Mode::Standalone(mode) => {
                let effect = || self.put_into_effect(&old, &next);
                reloaded.notes = standalone::put(mode, &old, &next, effect).await?;
            }
            Mode::Connected(mode) => {
                self.put_into_effect(&old, &next);
                mode.follow(&next.limits);
            }
        }
        let is_live = |change: &Change| takeover::is_live(change.key, &new, &old);
        let changes = read.last.changes(&written).into_iter().filter(is_live);
        reloaded.changed = changes.map(|change| change.text).collect();
        reloaded.changed.extend(credentials(&old, &next, &reloaded.changed));
        reloaded.changed.extend(certificate(&old, &next));
        for change in read.first.changes(&written).iter().filter(|change| !is_live(change)) {
            if !reloaded.restart.contains(&change.key) {
                reloaded.restart.push(change.key);
            }
        }
        let is_news = |warning: &&String| !old.warnings.contains(warning);
        reloaded.notes.extend(next.warnings.iter().filter(is_news).cloned());
        read.last = written;
        Ok(reloaded)
    }

    /// What both modes have. Waits for nobody.
    fn put_into_effect(&self, old: &Config, next: &Arc<Config>) {
        let app = &self.app;
        if old.rate_limit_rpm != next.rate_limit_rpm {
            // Whoever used up the old limit begins anew under the new one.
            app.limiter.store(next.rate_limit_rpm.map(|rpm| Arc::new(RateLimiter::new(rpm))));
        }
        if old.rate_limits != next.rate_limits {
            app.rates.follow(&next.rate_limits);
        }
        if old.circuit_breaker != next.circuit_breaker {
            app.breakers.follow(next.circuit_breaker);
        }
        if old.log_level != next.log_level {
            logs::set_level(next.log_level);
            app.access.switch(logs::has_lines(next.log_level));
        }
        if let (Some(certificates), Some(tls)) = (&app.certificates, &next.tls) {
            certificates.replace(tls);
        }
        app.current.store(next.clone());
    }

    /// Everything that the configuration in force was read from, as far as it is known.
    fn files(&self) -> Vec<PathBuf> {
        let config = self.app.live();
        let beside = config.file.as_ref().and_then(|file| file.parent());
        let mut files: Vec<PathBuf> = config.file.iter().cloned().collect();
        files.extend(beside.map(|folder| folder.join(".env")));
        files.push(".env".into());
        files.extend(config.providers.iter().filter_map(|provider| match &provider.credential {
            CredentialSource::File(file) => Some(file.clone()),
            _ => None,
        }));
        files.extend(
            config.tls.iter().flat_map(|tls| [tls.cert_path.clone(), tls.key_path.clone()]),
        );
        files
    }
}

/// Refuses to put a certificate that callers refuse in the place of another.
fn expired(old: &Config, new: &Config) -> Result<(), Refused> {
    let (Some(was), Some(tls)) = (&old.tls, &new.tls) else { return Ok(()) };
    if was.certified.cert == tls.certified.cert || !tls.has_expired() {
        return Ok(());
    }
    let (file, at) = (tls.cert_path.display(), tls.until());
    Err(Refused::Other(format!("tls_cert_path: {file} holds a certificate that expired at {at}")))
}

/// A certificate that is another one, whether or not its path is.
fn certificate(old: &Config, next: &Config) -> Option<String> {
    let (was, tls) = (old.tls.as_ref()?, next.tls.as_ref()?);
    let is_other = was.certified.cert != tls.certified.cert;
    is_other.then(|| format!("tls: another certificate, until {}", tls.until()))
}

/// Providers that are different although nothing that is written about them is: their credential comes from a file, or
/// from a variable of `.env`.
fn credentials(old: &Config, next: &Config, said: &[String]) -> Vec<String> {
    let is_other = |provider: &&config::ProviderConfig| {
        let before = old.providers.iter().find(|other| other.instance == provider.instance);
        before.is_some_and(|before| !takeover::is_same(before, provider))
            && !said
                .iter()
                .any(|text| text.starts_with(&format!("providers.{}", provider.instance)))
    };
    let others = next.providers.iter().filter(is_other);
    others.map(|provider| format!("providers.{}: credential changed", provider.instance)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_is_said_in_one_line() {
        assert_eq!(Reloaded::default().to_string(), "nothing to put into effect");
        let reloaded = Reloaded {
            changed: vec!["providers.mistral: added".into(), "rate_limit_rpm: 60 -> 120".into()],
            restart: vec!["port", "threads"],
            notes: Vec::new(),
        };
        assert_eq!(
            reloaded.to_string(),
            "providers.mistral: added; rate_limit_rpm: 60 -> 120; restart needed for: port, threads"
        );
    }
}
