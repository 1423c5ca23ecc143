//! From what the platform offers to attempts that can be made.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use otari_filters::control::{Attempt, Plan};
use otari_filters::platform::plan::{Offer, Offers};
use otari_filters::providers::{self, Provider};
use otari_filters::rejection::Rejection;
use otari_filters::upstream::{BadDraft, Draft, Upstream};

use crate::config::{Limits, PlatformConfig};

/// As the provider's own clients repeat a call.
const MAX_RETRIES: u32 = 2;
/// For attempts that cannot be made: they fail before anything is sent.
const NOWHERE: &str = "http://unset.invalid";

/// What every attempt has in common, and where attempts have led.
#[derive(Debug)]
pub(super) struct Offered {
    /// From the sent request to the first byte of the body.
    opening: Duration,
    /// Silence between two pieces.
    idle: Duration,
    /// Of an open stream, before its first event.
    first_event: Duration,
    /// Added to that for the last attempt.
    final_extra: Duration,
    /// Where offers led before. Making a place costs more than all else about an attempt, and there are few.
    places: ArcSwap<Vec<Arc<Place>>>,
}

/// More of them are not kept; a platform that names so many addresses names each once.
const MAX_PLACES: usize = 64;

/// A provider at an address, without a credential.
#[derive(Debug)]
struct Place {
    base_url: Box<str>,
    upstream: Upstream,
}

impl Offered {
    pub(super) fn new(config: &PlatformConfig, limits: &Limits) -> Self {
        Self {
            opening: limits.first_byte_timeout,
            idle: limits.idle_timeout,
            first_event: config.first_event_timeout,
            final_extra: config.final_attempt_extra,
            places: ArcSwap::default(),
        }
    }

    /// Makes a plan of what was offered.
    ///
    /// # Errors
    /// When not even an attempt that must fail can be made.
    pub(super) fn plan(&self, offers: &Offers) -> Result<Plan, Rejection> {
        let last = offers.attempts.len().saturating_sub(1);
        let attempts = offers
            .attempts
            .iter()
            .enumerate()
            .map(|(at, offer)| self.attempt(offer, at == last))
            .collect::<Result<_, _>>()?;
        Ok(Plan { attempts, request_id: Some(offers.request_id.as_str().into()), policy: None })
    }

    fn attempt(&self, offer: &Offer, is_last: bool) -> Result<Attempt, Rejection> {
        let extra = if is_last { self.final_extra } else { Duration::ZERO };
        Ok(Attempt {
            upstream: Arc::new(self.upstream(offer)?),
            model: offer.model.as_str().into(),
            billed_model: offer.model.as_str().into(),
            prices: None,
            is_listed: true,
            is_alias: false,
            id: Some(offer.id.as_str().into()),
            position: offer.position,
            reason: None,
            first_event_timeout: Some(self.first_event + extra),
        })
    }

    /// With the platform's credential and address alone: neither environment nor configuration has a say.
    fn upstream(&self, offer: &Offer) -> Result<Upstream, Rejection> {
        let known = providers::find(&offer.provider);
        let instance = known.map_or(providers::UNKNOWN.name, |kind| kind.name);
        let base = |kind: &'static Provider| match &offer.api_base {
            Some(base) => Some(Cow::Borrowed(base.as_str())),
            None => kind.base(&offer.client_settings).ok(),
        };
        let addressed = known.and_then(|kind| Some((kind, base(kind)?)));
        let draft = |kind: &'static Provider, base_url| Draft {
            instance,
            kind,
            base_url,
            api_key: None,
            headers: &[],
            client_settings: &[],
            max_retries: MAX_RETRIES,
            first_byte_timeout: self.opening,
            idle_timeout: self.idle,
            address: None,
        };
        if let Some((kind, base_url)) = &addressed {
            let place = self.place(&draft(kind, base_url));
            let made =
                place.and_then(|place| place.with(offer.api_key.as_ref(), &offer.client_settings));
            match made {
                Ok(upstream) => return Ok(upstream),
                Err(bad) => {
                    tracing::warn!(
                        provider = kind.name,
                        attempt = offer.id,
                        "the platform offers a provider that cannot be called: bad {bad:?}"
                    );
                }
            }
        }
        Upstream::new(&draft(&providers::UNKNOWN, NOWHERE))
            .map_err(|bad| Rejection::internal(format!("no placeholder: {bad:?}")))
    }

    /// The place that a draft describes; it is the same for every draft of one provider with one base URL.
    fn place(&self, draft: &Draft<'_>) -> Result<Upstream, BadDraft> {
        let is_it = |place: &&Arc<Place>| {
            std::ptr::eq(place.upstream.kind, draft.kind) && *place.base_url == *draft.base_url
        };
        if let Some(place) = self.places.load().iter().find(is_it) {
            return Ok(place.upstream.clone());
        }
        let upstream = Upstream::place(draft)?;
        let made = Arc::new(Place { base_url: draft.base_url.into(), upstream: upstream.clone() });
        self.places.rcu(|known| {
            let known = if known.len() < MAX_PLACES { &known[..] } else { &[] };
            known.iter().chain([&made]).cloned().collect::<Vec<_>>()
        });
        Ok(upstream)
    }
}
