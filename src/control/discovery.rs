//! What providers say they have: their lists of models, asked for when somebody wants to know, kept for a while, and
//! renewed in the background while they are being asked for.
//!
//! Requests only look at what is known, or wait for an answer that a background service (`run`) fetches.

mod entry;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use otari_filters::upstream::Upstream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::control::settings::Settings;
use crate::outbound::{self, ListError, Outbound};
use entry::{Entry, Need};
pub use entry::{Failed, Known};

/// Lists that are fetched at once, and that wait to be: more than anybody has providers, so that none waits for one that
/// hangs.
const AT_ONCE: usize = 128;
/// Between two looks at what will soon be too old.
const LOOK: Duration = Duration::from_secs(1);
/// A list that could not be renewed is shown for so long beyond its time. An older one is as good as none.
const STALE_AT_MOST: Duration = Duration::from_secs(3_600);

/// All lists, in the order of the configured providers.
pub struct Discovery {
    entries: ArcSwap<Vec<Arc<Entry>>>,
    outbound: Outbound,
    settings: Arc<ArcSwap<Settings>>,
    queue: mpsc::Sender<Arc<Entry>>,
    /// Taken by `run`.
    queued: Mutex<Option<mpsc::Receiver<Arc<Entry>>>>,
}

/// What is known of one provider's list.
pub struct Status {
    /// Name of the provider's instance.
    pub instance: Box<str>,
    /// Its models; `None`: nobody knows.
    pub known: Option<Arc<Known>>,
    /// Why there is no newer list.
    pub failed: Option<Failed>,
    /// When it was last asked, in microseconds since 1970; zero: never.
    pub checked_at_us: i64,
    /// Its API has no list.
    pub is_unsupported: bool,
    /// Whether there is anything to ask it with.
    pub has_credential: bool,
}

impl Discovery {
    /// `providers`: who may be asked; `false`: calling them fails for want of a credential.
    pub fn new(
        providers: impl Iterator<Item = (Arc<Upstream>, bool)>,
        outbound: Outbound,
        settings: Arc<ArcSwap<Settings>>,
    ) -> Self {
        let (queue, queued) = mpsc::channel(AT_ONCE);
        let entries = ArcSwap::default();
        let new = Self { entries, outbound, settings, queue, queued: Mutex::new(Some(queued)) };
        new.replace(providers);
        new
    }

    /// Other providers take the place of those so far. What is known of one that stays is kept.
    pub fn replace(&self, providers: impl Iterator<Item = (Arc<Upstream>, bool)>) {
        let before = self.entries.load_full();
        let entry = |(upstream, has_credential): (Arc<Upstream>, bool)| {
            let known = before.iter().find(|entry| {
                Arc::ptr_eq(&entry.upstream, &upstream) && entry.has_credential == has_credential
            });
            known.cloned().unwrap_or_else(|| Arc::new(Entry::new(upstream, has_credential)))
        };
        self.entries.store(Arc::new(providers.map(entry).collect()));
    }

    /// Whether the provider is known to have this model. Waits for nobody.
    pub fn lists(&self, instance: &str, model: &str) -> bool {
        self.settings.load().model_discovery
            && self.entry(instance).is_some_and(|entry| {
                entry.known().is_some_and(|known| known.model(model).is_some())
            })
    }

    /// A name was asked for that nobody is known to have: who has not said yet what they have is asked.
    pub fn wonder(&self) {
        let settings = self.settings.load();
        if settings.model_discovery {
            for entry in self.entries.load().iter() {
                if matches!(entry.need(&settings, Instant::now()), Need::Wait) {
                    self.begin(entry);
                }
            }
        }
    }

    /// The models of one provider, as they are known.
    pub fn known(&self, instance: &str) -> Option<Arc<Known>> {
        let settings = self.settings.load();
        if !settings.model_discovery {
            return None;
        }
        let shown = |entry: Arc<Entry>| entry.shown(&settings, Instant::now());
        self.entry(instance).and_then(shown)
    }

    /// What is known of every provider, in the order of the configuration.
    pub fn statuses(&self) -> Vec<Status> {
        let settings = self.settings.load();
        let is_on = settings.model_discovery;
        let status = |entry: &Arc<Entry>| {
            let state = entry.state();
            Status {
                instance: entry.upstream.instance.clone(),
                known: entry.shown(&settings, Instant::now()).filter(|_| is_on),
                failed: state.failed.clone(),
                checked_at_us: state.checked_at_us,
                is_unsupported: !entry.has_list(),
                has_credential: entry.has_credential,
            }
        };
        self.entries.load().iter().map(status).collect()
    }

    /// Has every list that is not known, or only that of `instance`, fetched, and waits for them: at most as long as a
    /// provider has to answer. Lists that are merely old are renewed without anybody waiting.
    pub async fn refresh(&self, instance: Option<&str>) {
        let settings = self.settings.load_full();
        if !settings.model_discovery {
            return;
        }
        let now = Instant::now();
        let entries = self.entries.load_full();
        let wanted = entries
            .iter()
            .filter(|entry| instance.is_none_or(|only| *entry.upstream.instance == *only));
        let mut waits = Vec::new();
        for entry in wanted {
            entry.touch(now);
            match entry.need(&settings, now) {
                Need::Nothing => {}
                Need::Renewal => self.begin(entry),
                Need::Wait => {
                    let mut rounds = entry.rounds();
                    self.begin(entry);
                    waits.push(async move { drop(rounds.changed().await) });
                }
            }
        }
        // Who has not answered by then is left out of this answer.
        let _ = timeout(settings.model_discovery_timeout, join_all(waits)).await;
    }

    /// Fetches what is asked for, and renews what is still wanted, for as long as it is polled. Only once.
    pub async fn run(&self) {
        let Some(mut queued) = self.queued.lock().take() else { return };
        // A bare name must find its provider from the start.
        self.wonder();
        let mut flights = JoinSet::new();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(entry) = queued.recv(), if flights.len() < AT_ONCE => {
                    let outbound = self.outbound.clone();
                    let settings = self.settings.load();
                    let within = settings.model_discovery_timeout;
                    flights.spawn(fetch(entry, outbound, within));
                }
                // What it came to is in the entry, a panic included.
                Some(_) = flights.join_next() => {}
                _ = looks.tick() => self.look(),
            }
        }
    }

    /// Begins to renew what will soon be too old and was asked for since it came.
    fn look(&self) {
        let settings = self.settings.load();
        if settings.model_discovery {
            let now = Instant::now();
            let entries = self.entries.load();
            let due = entries.iter().filter(|entry| entry.is_due(&settings, now));
            due.for_each(|entry| self.begin(entry));
        }
    }

    /// Has the list fetched, unless it is being fetched.
    fn begin(&self, entry: &Arc<Entry>) {
        // Each is there once, and there is room for more than anybody has.
        if entry.begin() && self.queue.try_send(entry.clone()).is_err() {
            entry.end(Err(ListError::Failed(outbound::Error::Timeout)));
        }
    }

    fn entry(&self, instance: &str) -> Option<Arc<Entry>> {
        let entries = self.entries.load();
        entries.iter().find(|entry| *entry.upstream.instance == *instance).cloned()
    }
}

/// A list that is being fetched. Dropping it without an outcome is an outcome: nobody waits for ever.
struct Flight {
    entry: Arc<Entry>,
    has_ended: bool,
}

impl Flight {
    fn end(&mut self, outcome: Result<Known, ListError>) {
        self.has_ended = true;
        let provider = &*self.entry.upstream.instance;
        match &outcome {
            Ok(known) => {
                tracing::debug!(provider, models = known.models().len(), "models were listed");
            }
            // Said once, and again when the reason changes: a provider may be without a list for days.
            Err(error) if self.entry.is_news(error) => {
                tracing::warn!(provider, %error, "its models are not listed");
            }
            Err(error) => tracing::debug!(provider, %error, "its models are not listed"),
        }
        self.entry.end(outcome);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Err(ListError::Failed(outbound::Error::Timeout)));
        }
    }
}

async fn fetch(entry: Arc<Entry>, outbound: Outbound, within: Duration) {
    let mut flight = Flight { entry, has_ended: false };
    let listed = outbound::models(&outbound, &flight.entry.upstream, within).await;
    flight.end(listed.map(Known::new));
}

#[cfg(test)]
mod tests;
