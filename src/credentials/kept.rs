//! One credential as it is kept: what was issued last, when it is renewed, what went wrong.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use otari_filters::providers::Provider;
use otari_filters::secret::Secret;
use otari_filters::upstream::Upstream;
use otari_filters::upstream::sign::AwsKeys;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{CredentialFailure, Pace, Source};

/// Renewed so long before the end, or when a tenth of its life is left, whichever comes later.
const AHEAD: Duration = Duration::from_secs(300);
/// Not used for the last moments: a call takes a while to arrive. At most, and a twentieth of its life.
const MARGIN: Duration = Duration::from_secs(10);
/// No issuer gives more; what says so is not believed.
const LONGEST: Duration = Duration::from_secs(36 * 3_600);

/// What goes with a call.
pub(super) enum Held {
    /// `Bearer` and a token.
    Bearer(HeaderValue),
    /// Signs.
    Keys(Arc<AwsKeys>),
}

/// A credential and its times, in microseconds since 1970.
pub(super) struct Issued {
    pub(super) held: Held,
    /// When it was asked for.
    since_us: i64,
    /// `None`: never.
    renew_us: Option<i64>,
    /// `None`: never.
    end_us: Option<i64>,
}

impl Issued {
    /// A credential with this much life left from `now_us` on.
    pub(super) fn for_life(held: Held, now_us: i64, life: Duration) -> Self {
        let life = life.min(LONGEST);
        let end = now_us.saturating_add(micros(life));
        Self {
            held,
            since_us: now_us,
            renew_us: Some(end - micros(AHEAD.min(life / 10))),
            end_us: Some(end - micros(MARGIN.min(life / 20))),
        }
    }

    /// A credential that says nothing of an end, to be looked for again after `again`, or never.
    pub(super) fn without_end(held: Held, now_us: i64, again: Option<Duration>) -> Self {
        let renew_us = again.map(|again| now_us.saturating_add(micros(again)));
        Self { held, since_us: now_us, renew_us, end_us: None }
    }

    fn is_usable(&self, now_us: i64) -> bool {
        self.end_us.is_none_or(|end| now_us < end)
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("end_us", &self.end_us).finish_non_exhaustive()
    }
}

pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// `Bearer` and this token.
///
/// # Errors
/// When no header can carry it.
pub(super) fn bearer(who: &str, token: &str) -> Result<Held, CredentialFailure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        CredentialFailure::unavailable(format!("{who} issued a token that no header can carry"))
    })?;
    value.set_sensitive(true);
    Ok(Held::Bearer(value))
}

/// The last failure, until something succeeds.
#[derive(Default)]
struct Trouble {
    failure: Option<CredentialFailure>,
    since_us: i64,
    pause: Duration,
}

/// An entry.
pub(super) struct Kept {
    /// For messages.
    pub(super) instance: Box<str>,
    kind: &'static Provider,
    api_key: Option<Secret>,
    settings: Arc<[(String, Secret)]>,
    pub(super) source: Source,
    issued: ArcSwapOption<Issued>,
    is_asked_for: AtomicBool,
    used_us: AtomicI64,
    trouble: Mutex<Trouble>,
    outcomes: watch::Sender<()>,
}

impl Kept {
    pub(super) fn new(upstream: &Upstream, source: Source, now_us: i64) -> Self {
        Self {
            instance: upstream.instance.clone(),
            kind: upstream.kind,
            api_key: upstream.api_key.clone(),
            settings: upstream.client_settings.clone(),
            source,
            issued: ArcSwapOption::empty(),
            is_asked_for: AtomicBool::new(false),
            used_us: AtomicI64::new(now_us),
            trouble: Mutex::default(),
            outcomes: watch::Sender::new(()),
        }
    }

    /// Whether it was made of the same settings.
    pub(super) fn is_for(&self, upstream: &Upstream) -> bool {
        std::ptr::eq(self.kind, upstream.kind)
            && self.api_key == upstream.api_key
            && (Arc::ptr_eq(&self.settings, &upstream.client_settings)
                || self.settings == upstream.client_settings)
    }

    pub(super) fn touch(&self, now_us: i64) {
        // Hardly ever changes for a busy entry: no write then, which other cores would have to see.
        const FINE_US: i64 = 1_000_000;
        if now_us - self.used_us.load(Ordering::Relaxed) > FINE_US {
            self.used_us.store(now_us, Ordering::Relaxed);
        }
    }

    pub(super) fn used_us(&self) -> i64 {
        self.used_us.load(Ordering::Relaxed)
    }

    /// What was issued, if it is valid now.
    pub(super) fn usable(&self, now_us: i64) -> Option<Arc<Issued>> {
        // A look first: most calls find it valid, and only they need a count of their own.
        self.issued.load().as_ref().filter(|issued| issued.is_usable(now_us)).cloned()
    }

    /// Drops what was issued, unless it is younger than `at_least`.
    pub(super) fn spurn(&self, now_us: i64, at_least: Duration) {
        let issued = self.issued.load_full();
        if let Some(issued) = issued
            && now_us.saturating_sub(issued.since_us) > micros(at_least)
        {
            // Only this one: a newer one may have come.
            self.issued.compare_and_swap(&issued, None);
        }
    }

    /// Tells of every outcome from now on.
    pub(super) fn outcomes(&self) -> watch::Receiver<()> {
        self.outcomes.subscribe()
    }

    /// What the last try came to.
    pub(super) fn outcome(&self, now_us: i64) -> Result<Arc<Issued>, CredentialFailure> {
        self.usable(now_us).ok_or_else(|| {
            let failure = self.trouble.lock().failure.clone();
            failure.unwrap_or_else(|| {
                let text = "the credential that was issued had ended when it came";
                CredentialFailure::unavailable(text)
            })
        })
    }

    /// The last failure, while it is too soon to try again.
    pub(super) fn failing(&self, now_us: i64, at_most: Duration) -> Option<CredentialFailure> {
        let trouble = self.trouble.lock();
        let until = trouble.since_us.saturating_add(micros(trouble.pause.min(at_most)));
        trouble.failure.clone().filter(|_| now_us < until)
    }

    /// Whether it should be renewed now.
    pub(super) fn is_due(&self, now_us: i64) -> bool {
        let issued = self.issued.load();
        let due = issued.as_ref().and_then(|issued| issued.renew_us).is_some_and(|at| at <= now_us);
        due && !self.is_asked_for.load(Ordering::Acquire) && {
            let trouble = self.trouble.lock();
            now_us >= trouble.since_us.saturating_add(micros(trouble.pause))
        }
    }

    /// Whether nobody asks for it yet; then the caller must, and call `end`.
    pub(super) fn begin(&self) -> bool {
        !self.is_asked_for.swap(true, Ordering::AcqRel)
    }

    /// Takes `begin` back: it was not needed any more.
    pub(super) fn leave(&self) {
        self.is_asked_for.store(false, Ordering::Release);
        self.outcomes.send_replace(());
    }

    pub(super) fn is_asked_for(&self) -> bool {
        self.is_asked_for.load(Ordering::Acquire)
    }

    /// Notes what came of it and tells those who wait. What was issued before stays for as long as it is valid.
    pub(super) fn end(&self, result: Result<Issued, CredentialFailure>, now_us: i64, pace: &Pace) {
        match result {
            Ok(issued) => {
                self.issued.store(Some(Arc::new(issued)));
                *self.trouble.lock() = Trouble::default();
            }
            Err(failure) => {
                let mut trouble = self.trouble.lock();
                let pause = (trouble.pause * 2).clamp(pace.pause, pace.pause_at_most);
                *trouble = Trouble { failure: Some(failure), since_us: now_us, pause };
            }
        }
        self.leave();
    }
}
