//! The four questions answered from memory: who calls, who pays, where to, may they.

mod routes;
mod table;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::HeaderMap;
use otari_filters::allow::AllowList;
use otari_filters::authenticate::{self, unknown_key};
use otari_filters::control::{
    Attempt, Billed, Caller, Claim, ControlPlane, Hold, Plan, Reservation, Scope, Settling, Wanted,
};
use otari_filters::limit::{Quota, Window};
use otari_filters::money::MicroUsd;
use otari_filters::providers::Family;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::resolve::{self, Instance, Lists};
use otari_filters::settle::{Entry, Finished};
use papaya::HashMap;
use parking_lot::Mutex;

use crate::clock;
use crate::control::directory::{self, Directory};
use crate::control::discovery::Discovery;
use crate::control::journal::{Journal, Place};
use crate::control::leases::Leases;
use crate::control::ledger::{Decision, Ledger};
use crate::control::settings::{MasterKey, Settings};
use crate::control::writer::Touched;
use crate::telemetry::metrics::Metrics;
pub use table::{Changing, Configured, Table};

/// Windows of idle users are dropped when so many calls were counted.
const PRUNE_EVERY: u64 = 1000;

/// Standalone mode's control plane.
pub struct Local {
    /// Keys, lists, aliases and prices.
    pub directory: Arc<Directory>,
    /// Budgets.
    pub ledger: Arc<Ledger>,
    /// This gateway's part of them, where it shares a database.
    pub leases: Arc<Leases>,
    /// The way back to the store.
    pub journal: Arc<Journal>,
    /// Uses of keys.
    pub touched: Arc<Touched>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The master key; replaced when it is rotated.
    pub master: ArcSwap<MasterKey>,
    /// Where calls may lead; replaced as a whole when the configuration is read again.
    pub table: ArcSwap<Table>,
    /// Lets no request see one half of a change.
    pub changing: Changing,
    /// What providers say they have.
    pub discovery: Arc<Discovery>,
    /// What can be changed while the gateway runs.
    pub settings: Arc<ArcSwap<Settings>>,
}

impl Local {
    /// Puts settings into effect.
    pub fn set(&self, settings: Settings) {
        self.directory.default_prices.switch(settings.default_pricing);
        self.settings.store(Arc::new(settings));
    }

    /// Whether the token is the master key.
    pub fn is_master(&self, token: &str) -> bool {
        self.master.load().is(&directory::digest(token))
    }

    /// Whoever holds the key with this id, for work that goes on without them.
    ///
    /// # Errors
    /// `invalid_api_key`, `inactive_key`, `expired_key`.
    pub fn caller(&self, key_id: &str) -> Result<Caller, Rejection> {
        let key = self.directory.key_of(key_id);
        let key = key.ok_or_else(|| Rejection::new(Code::InvalidApiKey, "Invalid API key"))?;
        key.check(clock::now_us())?;
        Ok(key.caller())
    }

    /// Whether the name is that of a configured provider, or of one the gateway knows.
    pub fn is_provider(&self, name: &str) -> bool {
        let table = self.table.load();
        table.provider(name).is_some()
            || table.search_tools.iter().any(|(engine, _)| *engine == name)
            || otari_filters::providers::find(name).is_some()
    }

    /// The list that binds this caller: the key's own, else that of the user who pays. The operator has none.
    pub(super) fn allowed(&self, caller: &Caller, user_id: &str) -> Option<Arc<AllowList>> {
        match caller {
            Caller::Master | Caller::Bearer(_) => None,
            Caller::Key { allowed: Some(own), .. } => Some(own.clone()),
            Caller::Key { allowed: None, .. } => self.directory.allowed(user_id),
        }
    }

    /// Whether this caller may use `model` of `instance`.
    pub fn permits(&self, caller: &Caller, user_id: &str, instance: &str, model: &str) -> bool {
        self.allowed(caller, user_id).is_none_or(|list| list.permits(instance, model))
    }

    /// The provider and the model's name there.
    pub(super) fn find<'a, 't>(
        &self,
        table: &'t Table,
        selector: &'a str,
    ) -> Result<(&'t Configured, &'a str), Rejection> {
        let instances: Vec<Instance<'_>> = table
            .providers
            .iter()
            .map(|provider| Instance {
                name: &provider.upstream.instance,
                kind: provider.upstream.kind,
            })
            .collect();
        let lists = |instance: &Instance<'_>, model: &str| {
            let is_configured = self.directory.has_price(&format!("{}:{model}", instance.name))
                || table.provider(instance.name).is_some_and(|provider| {
                    provider.models.iter().any(|declared| declared == model)
                });
            match is_configured {
                true => Lists::Configured,
                false if self.discovery.lists(instance.name, model) => Lists::Discovered,
                false => Lists::No,
            }
        };
        match resolve::find(selector, &instances, lists) {
            Ok((at, model)) => Ok((&table.providers[at], model)),
            Err(refused) => {
                if refused.code == Code::ModelNotFound {
                    self.discovery.wonder();
                }
                Err(refused)
            }
        }
    }

    fn attempt(&self, provider: &Configured, model: &str) -> Attempt {
        // The mock's options behind `?` change its behaviour, not what it is.
        let billed = match provider.upstream.kind.family {
            Family::Mock => model.split('?').next().unwrap_or(model),
            _ => model,
        };
        let instance = &provider.upstream.instance;
        let listed =
            self.directory.price(instance, provider.upstream.kind, billed, clock::now_us());
        Attempt {
            upstream: provider.upstream.clone(),
            model: model.into(),
            billed_model: billed.into(),
            is_listed: listed.as_ref().is_some_and(|listed| listed.is_exact),
            prices: listed.map(|listed| listed.prices),
            is_alias: false,
            id: None,
            position: 0,
            reason: None,
            first_event_timeout: None,
        }
    }

    /// Holds an estimate in one scope: in memory, unless only the database can say.
    async fn hold(
        &self,
        scope: &Scope,
        estimate: MicroUsd,
        free: bool,
    ) -> Result<Decision, Rejection> {
        let hold = |rule| {
            let (decision, reset) = self.ledger.hold(scope, estimate, free, rule, clock::now_us());
            if let Some(reset) = reset {
                self.journal(&Entry::Reset(reset));
            }
            decision
        };
        let decision = match hold(self.leases.rule()) {
            Decision::Ask(_) => self.leases.hold(scope, estimate, hold).await?,
            decision => decision,
        };
        match decision {
            Decision::Refused(refused) => Err(*refused),
            Decision::Held { is_low: true, .. } => {
                self.leases.is_low(scope, estimate);
                Ok(decision)
            }
            decision => Ok(decision),
        }
    }

    fn counted(&self, refused: Rejection) -> Rejection {
        if refused.code == Code::BudgetExceeded {
            self.metrics.budget_exceeded.inc();
        }
        refused
    }

    /// Says where it stands; `None`: the disk refused it.
    fn journal(&self, entry: &Entry) -> Option<Place> {
        let error = match self.journal.append(entry) {
            Ok(place) => return Some(place),
            Err(error) => error,
        };
        // The disk is full or broken: it waits in memory for the database. It is in the log as well, because there it
        // outlives this process.
        let record = serde_json::to_string(entry).unwrap_or_default();
        if self.journal.refused.keep(entry.clone()) {
            tracing::error!(
                %error, record,
                "a usage record could not be journalled; it waits in memory for the database"
            );
        } else {
            tracing::error!(%error, record, "a usage record could not be journalled; enter it by hand");
            self.metrics.journal.dropped();
        }
        None
    }
}

#[async_trait]
impl ControlPlane for Local {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Rejection> {
        let token = authenticate::credential(headers)?;
        let presented = directory::digest(token);
        if self.master.load().is(&presented) {
            return Ok(Caller::Master);
        }
        let key = self.directory.key(&presented).ok_or_else(|| unknown_key(token))?;
        let now_us = clock::now_us();
        key.check(now_us)?;
        if key.touch(now_us) {
            self.touched.push(&key.id, clock::timestamp(now_us));
        }
        Ok(key.caller())
    }

    fn bill(&self, caller: &Caller, requested: Option<&str>) -> Result<Billed, Rejection> {
        let owner = match (caller, requested) {
            (Caller::Master, Some(user)) => {
                return Ok(Billed { user_id: Some(user.into()), keeps_label: false });
            }
            (Caller::Master, None) => {
                let message = "When using master key, 'user' field is required in request body";
                return Err(Rejection::new(Code::UserRequired, message));
            }
            (Caller::Key { user_id: None, .. } | Caller::Bearer(_), _) => {
                let message = "API key has no associated user";
                return Err(Rejection::new(Code::KeyWithoutUser, message));
            }
            (Caller::Key { user_id: Some(owner), .. }, _) => owner.clone(),
        };
        let other = requested.filter(|user| **user != *owner);
        let is_identity = other.is_some_and(|user| self.ledger.knows(user));
        if is_identity && self.settings.load().rejects_mismatch(caller) {
            let message = "'user' field does not match the authenticated API key's user";
            return Err(Rejection::new(Code::UserMismatch, message));
        }
        Ok(Billed { user_id: Some(owner), keeps_label: other.is_some() && !is_identity })
    }

    async fn resolve(
        &self,
        caller: &Caller,
        user_id: Option<&str>,
        wanted: Wanted<'_>,
    ) -> Result<Plan, Rejection> {
        let payer = user_id.unwrap_or_default();
        self.changing.read(|| self.plan(caller, payer, wanted))
    }

    async fn reserve(&self, claim: Claim<'_>) -> Result<Reservation, Rejection> {
        self.ledger.admit(claim.user_id)?;
        let counts = !claim.caller.is_excluded();
        let scopes = match counts {
            true => self.ledger.scopes(claim.caller, claim.user_id, claim.attempts),
            false => Vec::new(),
        };
        let mut partial = Partial::new(&self.ledger, &claim, scopes.len(), counts);
        for mut hold in scopes {
            // The cap for another provider is asked when a call goes there.
            if !claim.attempts.first().is_none_or(|first| is_for(&hold, first)) {
                partial.put_off(hold);
                continue;
            }
            let decided = self.hold(&hold.scope, claim.estimate, claim.free).await;
            match decided.map_err(|refused| self.counted(refused))? {
                Decision::Held { leased, .. } => {
                    hold.leased = leased;
                    partial.add(hold);
                }
                _ => partial.put_off(hold),
            }
        }
        Ok(partial.whole())
    }

    async fn top_up(&self, reservation: &mut Reservation, more: MicroUsd) -> Result<(), Rejection> {
        for (at, hold) in reservation.holds.iter().enumerate() {
            let decided = match self.ledger.top_up(hold, more) {
                Decision::Ask(_) => {
                    self.leases.hold(&hold.scope, more, |_| self.ledger.top_up(hold, more)).await
                }
                decided => Ok(decided),
            };
            let refused = match decided {
                Ok(Decision::Refused(refused)) => *refused,
                Ok(_) => continue,
                Err(refused) => refused,
            };
            for hold in &reservation.holds[..at] {
                self.ledger.give_back(hold, more);
            }
            return Err(self.counted(refused));
        }
        if !reservation.holds.is_empty() {
            reservation.held += more;
        }
        Ok(())
    }

    async fn cover(
        &self,
        reservation: &mut Reservation,
        attempt: &Attempt,
        estimate: MicroUsd,
    ) -> Result<(), Rejection> {
        if estimate == MicroUsd::ZERO {
            return Ok(());
        }
        if estimate > reservation.held && !reservation.holds.is_empty() {
            self.top_up(reservation, estimate - reservation.held).await?;
        }
        let whole = estimate.max(reservation.held);
        let later = std::mem::take(&mut reservation.later);
        let (due, later) = later.into_iter().partition(|hold| is_for(hold, attempt));
        reservation.later = later;
        for mut hold in Vec::<Hold>::into_iter(due) {
            let decided = self.hold(&hold.scope, whole, false).await;
            if let Decision::Held { leased, .. } =
                decided.map_err(|refused| self.counted(refused))?
            {
                hold.leased = leased;
                reservation.held = whole;
                reservation.holds.push(hold);
            }
        }
        Ok(())
    }

    fn release(&self, reservation: Reservation) {
        self.ledger.release(&reservation);
    }

    fn settle(&self, finished: Finished) -> Option<Settling> {
        let Finished { mut record, reservation, report: _ } = finished;
        if let Some(reservation) = &reservation {
            self.ledger.charge(&mut record, reservation);
        }
        // Journal first: between the two the hold still counts, so nothing can be overspent.
        let entry = Box::new(Entry::Usage(record));
        let place = self.journal(&entry);
        if let Entry::Usage(record) = &*entry {
            self.ledger.settle(record, reservation.as_ref());
        }
        if let Some(place) = place {
            self.journal.fresh.push(place, entry);
        }
        None
    }
}

/// Whether a call to this provider counts against the hold's budget.
fn is_for(hold: &Hold, attempt: &Attempt) -> bool {
    hold.provider.as_deref().is_none_or(|only| *only == *attempt.upstream.instance)
}

/// Holds taken so far: given back when one is refused, or the caller leaves while the database is asked.
struct Partial<'a> {
    ledger: &'a Ledger,
    reservation: Option<Reservation>,
}

impl<'a> Partial<'a> {
    fn new(ledger: &'a Ledger, claim: &Claim<'_>, holds: usize, counts: bool) -> Self {
        let reservation = Reservation {
            user_id: claim.user_id.clone(),
            held: claim.estimate,
            holds: Vec::with_capacity(holds),
            later: Vec::new(),
            counts,
        };
        Self { ledger, reservation: Some(reservation) }
    }

    fn add(&mut self, hold: Hold) {
        if let Some(reservation) = &mut self.reservation {
            reservation.holds.push(hold);
        }
    }

    fn put_off(&mut self, hold: Hold) {
        if let Some(reservation) = &mut self.reservation {
            reservation.later.push(hold);
        }
    }

    fn whole(mut self) -> Reservation {
        let mut whole = self.reservation.take().expect("nothing else takes it");
        if whole.holds.is_empty() {
            whole.held = MicroUsd::ZERO;
        }
        whole
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if let Some(reservation) = &self.reservation {
            self.ledger.release(reservation);
        }
    }
}

/// Requests per minute, per billed user, in this process.
#[derive(Debug)]
pub struct RateLimiter {
    limit: NonZeroU32,
    windows: HashMap<Arc<str>, Arc<Mutex<Window>>>,
    calls: std::sync::atomic::AtomicU64,
}

impl RateLimiter {
    /// A limiter with nobody in it.
    pub fn new(limit: NonZeroU32) -> Self {
        Self { limit, windows: HashMap::new(), calls: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Takes a slot for the user.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn admit(&self, user_id: &Arc<str>, now: Instant) -> Result<Quota, Rejection> {
        let windows = self.windows.pin();
        let calls = self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if calls % PRUNE_EVERY == PRUNE_EVERY - 1 {
            windows.retain(|_, window| !window.lock().is_idle(now));
        }
        let window = windows.get_or_insert_with(user_id.clone(), Arc::default);
        window.lock().admit(now, self.limit)
    }
}
