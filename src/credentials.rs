//! Short-lived credentials: what providers want whose configured credential is not itself a header. Kept in memory, asked
//! for once however many callers wait, and renewed ahead of their end.
//!
//! Requests only look here; a background service (`run`) does the asking.

mod aws;
mod client;
mod failure;
mod files;
mod google;
mod ibm;
mod kept;
mod oauth;
mod renewal;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use otari_filters::providers::Auth;
use otari_filters::secret::Secret;
use otari_filters::upstream::Upstream;
use otari_filters::upstream::sign::AwsKeys;
use papaya::HashMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::clock;
use crate::config::Ambient;
pub use failure::CredentialFailure;
pub use google::project_of;
use kept::{Held, Issued, Kept};

/// Entries in memory: a platform has many tenants. The one that was not used for longest goes first.
const MAX_KEPT: usize = 1_024;
/// Entries that wait to be asked for. Each waits once.
const QUEUE: usize = 1_024;

/// How often and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long a request waits.
    wait: Duration,
    /// For all that it takes to get one credential; less than `wait`.
    fetch: Duration,
    /// Between two looks at what is to be renewed.
    look: Duration,
    /// Between two tries after a failure; doubles.
    pause: Duration,
    /// The longest of these pauses.
    pause_at_most: Duration,
    /// Without any valid credential, callers bring about a new try after so long at most.
    nudge: Duration,
    /// What nobody used for so long is not renewed, and forgotten.
    unused: Duration,
    /// Under way at once.
    at_once: usize,
    /// What is younger is not given up because a provider refuses it.
    spurn_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(10),
            fetch: Duration::from_secs(9),
            look: Duration::from_secs(1),
            pause: Duration::from_secs(1),
            pause_at_most: Duration::from_secs(60),
            nudge: Duration::from_secs(5),
            unused: Duration::from_secs(3_600),
            at_once: 64,
            spurn_after: Duration::from_secs(60),
        }
    }
}

/// Microseconds since 1970.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Where a credential comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Google's OAuth 2.
    Google(google::Source),
    /// IBM Cloud IAM.
    Ibm(ibm::Source),
    /// The chain of AWS.
    Aws(aws::Source),
}

impl Source {
    /// What the settings of an upstream ask for. `ambient`: what the machine offers; `None` when the settings are a
    /// platform's, which neither use the machine nor are trusted to say where its operator's credential goes.
    fn of(upstream: &Upstream, ambient: Option<&Arc<Ambient>>) -> Result<Self, CredentialFailure> {
        match upstream.kind.auth() {
            Auth::Google => google::Source::of(upstream, ambient).map(Self::Google),
            Auth::Ibm => ibm::Source::of(upstream, ambient.is_some()).map(Self::Ibm),
            Auth::Aws => aws::Source::of(upstream, ambient).map(Self::Aws),
            _ => Err(CredentialFailure::settings(format!(
                "{} takes its credential as it is",
                upstream.kind.name
            ))),
        }
    }

    /// Asks for it. `now_us`: the time.
    async fn fetch(&self, http: &client::Http, now_us: i64) -> Result<Issued, CredentialFailure> {
        match self {
            Self::Google(source) => source.fetch(http, now_us).await,
            Self::Ibm(source) => source.fetch(http, now_us).await,
            Self::Aws(source) => source.fetch(http, now_us).await,
        }
    }
}

/// The setting called `name`; blank is unset.
fn setting<'a>(upstream: &'a Upstream, name: &str) -> Option<&'a str> {
    let found = upstream.client_settings.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.expose().trim()).filter(|value| !value.is_empty())
}

/// The configured key; blank is none.
fn key(upstream: &Upstream) -> Option<&str> {
    upstream.api_key.as_ref().map(Secret::expose).map(str::trim).filter(|key| !key.is_empty())
}

/// All short-lived credentials of the process. Clones share them.
#[derive(Clone)]
pub struct Credentials(Arc<Shared>);

struct Shared {
    ambient: Option<Arc<Ambient>>,
    /// By the fingerprint of the upstream.
    kept: HashMap<u64, Arc<Kept>>,
    /// Held while an entry is added, so that the limit holds.
    adding: Mutex<()>,
    queue: mpsc::Sender<Arc<Kept>>,
    /// Taken by `run`.
    queued: Mutex<Option<mpsc::Receiver<Arc<Kept>>>>,
    pace: Pace,
    clock: Clock,
}

impl Credentials {
    /// `ambient`: what this machine offers; `None` in connected mode, where settings are the platform's and nothing of
    /// this machine may go with them: no environment, no files, no metadata server, no addresses to ask.
    pub fn new(ambient: Option<Ambient>) -> Self {
        Self::with(ambient, Pace::default(), Arc::new(clock::now_us))
    }

    fn with(ambient: Option<Ambient>, pace: Pace, clock: Clock) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        Self(Arc::new(Shared {
            ambient: ambient.map(Arc::new),
            kept: HashMap::new(),
            adding: Mutex::new(()),
            queue,
            queued: Mutex::new(Some(queued)),
            pace,
            clock,
        }))
    }

    /// The value of `Authorization` for this upstream, marked as sensitive: `Bearer` and a token that is valid now. For
    /// the families Vertex and watsonx. Waits ten seconds at most.
    ///
    /// # Errors
    /// When there is none.
    pub async fn bearer(&self, upstream: &Upstream) -> Result<HeaderValue, CredentialFailure> {
        match &self.issued(upstream).await?.held {
            Held::Bearer(value) => Ok(value.clone()),
            Held::Keys(_) => {
                Err(CredentialFailure::settings(format!("{} signs its calls", upstream.kind.name)))
            }
        }
    }

    /// Keys to sign with that are valid now, for the families Bedrock and SageMaker. Waits ten seconds at most.
    ///
    /// # Errors
    /// When there are none.
    pub async fn aws(&self, upstream: &Upstream) -> Result<Arc<AwsKeys>, CredentialFailure> {
        if let Some(keys) = aws::explicit(upstream)? {
            return Ok(Arc::new(keys));
        }
        match &self.issued(upstream).await?.held {
            Held::Keys(keys) => Ok(keys.clone()),
            Held::Bearer(_) => Err(CredentialFailure::settings(format!(
                "{} does not sign its calls",
                upstream.kind.name
            ))),
        }
    }

    /// The provider answered 401 to what was issued for this upstream: the next call asks for another. What is younger
    /// than a minute stays, so that a provider who refuses everything does not have each call ask.
    pub fn spurn(&self, upstream: &Upstream) {
        let kept = self.0.kept.pin().get(&upstream.fingerprint).cloned();
        if let Some(kept) = kept.filter(|kept| kept.is_for(upstream)) {
            kept.spurn((self.0.clock)(), self.0.pace.spurn_after);
        }
    }

    /// Asks for what requests want and renews what they used, for as long as it is polled. Only once.
    pub async fn run(&self) {
        let queued = self.0.queued.lock().take();
        if let Some(queued) = queued {
            renewal::run(&self.0, queued).await;
        }
    }

    async fn issued(&self, upstream: &Upstream) -> Result<Arc<Issued>, CredentialFailure> {
        let now = (self.0.clock)();
        let kept = self.0.find(upstream, now)?;
        match kept.usable(now) {
            Some(issued) => Ok(issued),
            // Boxed: hardly any call waits.
            None => Box::pin(self.0.wait_for(&kept)).await,
        }
    }
}

impl Shared {
    /// The upstream's entry, made when there is none.
    fn find(&self, upstream: &Upstream, now_us: i64) -> Result<Arc<Kept>, CredentialFailure> {
        let found = self.kept.pin().get(&upstream.fingerprint).cloned();
        // A fingerprint is short: that two tenants never share a credential must not depend on it.
        if let Some(kept) = found.filter(|kept| kept.is_for(upstream)) {
            kept.touch(now_us);
            return Ok(kept);
        }
        let source = Source::of(upstream, self.ambient.as_ref())?;
        let made = Arc::new(Kept::new(upstream, source, now_us));
        let _adding = self.adding.lock();
        let kept = self.kept.pin();
        if let Some(other) = kept.get(&upstream.fingerprint).filter(|kept| kept.is_for(upstream)) {
            return Ok(other.clone());
        }
        if kept.len() >= MAX_KEPT {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used_us()).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                kept.remove(&oldest);
            }
        }
        kept.insert(upstream.fingerprint, made.clone());
        Ok(made)
    }

    /// Has the credential asked for, unless it is already, and waits for what comes of it.
    async fn wait_for(&self, kept: &Arc<Kept>) -> Result<Arc<Issued>, CredentialFailure> {
        let mut outcomes = kept.outcomes();
        let now = (self.clock)();
        if let Some(issued) = kept.usable(now) {
            return Ok(issued);
        }
        if let Some(failure) = kept.failing(now, self.pace.nudge) {
            return Err(failure);
        }
        if kept.begin() {
            // Between the look and now, others may have asked and been answered.
            if let Some(issued) = kept.usable(now) {
                kept.leave();
                return Ok(issued);
            }
            if self.queue.try_send(kept.clone()).is_err() {
                kept.end(Err(CredentialFailure::Busy), now, &self.pace);
            }
        }
        match tokio::time::timeout(self.pace.wait, outcomes.changed()).await {
            Ok(Ok(())) => kept.outcome((self.clock)()),
            _ => Err(CredentialFailure::Timeout),
        }
    }
}
