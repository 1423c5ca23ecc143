//! `ControlPlane`: the questions a request asks of the world, in the order in which it asks them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::allow::AllowList;
use crate::limit::UnderWay;
use crate::money::MicroUsd;
use crate::prices::Prices;
use crate::providers::Operation;
use crate::rejection::Rejection;
use crate::secret::Secret;
use crate::settle::{Cost, Finished};
use crate::upstream::Upstream;

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The operator.
    Master,
    /// The holder of an API key.
    Key {
        /// Id of the key.
        id: Arc<str>,
        /// Whom the key belongs to.
        user_id: Option<Arc<str>>,
        /// What it spends is recorded and counts against no budget.
        excluded: bool,
        /// Refuse another existing user's name; `None`: as the settings say.
        rejects_mismatch: Option<bool>,
        /// The key's own list of models; `None`: its user's holds.
        allowed: Option<Arc<AllowList>>,
        /// Its requests under way.
        calls: UnderWay,
        /// Those of its user, with whatever key.
        user_calls: Option<UnderWay>,
    },
    /// The holder of a platform's token, which only the platform can judge.
    Bearer(Arc<Secret>),
}

impl Caller {
    /// Id of the key; `None` for other credentials.
    pub fn key_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Master | Self::Bearer(_) => None,
            Self::Key { id, .. } => Some(id),
        }
    }

    /// Whether budgets are not asked.
    pub fn is_excluded(&self) -> bool {
        matches!(self, Self::Key { excluded: true, .. })
    }
}

/// Who pays, and whether the name in the request was theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Billed {
    /// The user whose budget and spend are charged; `None`: that is the platform's affair.
    pub user_id: Option<Arc<str>>,
    /// The request's `user` is a label of the caller's own: it goes on to the provider.
    pub keeps_label: bool,
}

/// What is asked of the world's list of models.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The selector as sent.
    pub model: &'a str,
    /// The caller wants no router to choose: a policy's default serves (`Otari-Router: off`).
    pub no_router: bool,
    /// What it is wanted for; [`Operation::Chat`] stands for generations in whatever format.
    pub operation: Operation,
    /// The gateway asks on its own account, for a caller's sake: their list of models does not bind it.
    pub is_own: bool,
}

/// Where a request may go.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What to try, in this order; never empty.
    pub attempts: Vec<Attempt>,
    /// The platform's name for the request.
    pub request_id: Option<Box<str>>,
    /// The routing policy that the request named.
    pub policy: Option<Arc<str>>,
}

/// One upstream that can serve the request.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Where it is and how it is spoken to.
    pub upstream: Arc<Upstream>,
    /// The model's name there.
    pub model: Box<str>,
    /// The model's name in prices, rows and metrics.
    pub billed_model: Box<str>,
    /// What it costs as of the request; `None`: unpriced.
    pub prices: Option<Arc<Prices>>,
    /// A price list or the platform spells the name out, so that it may become a metric's label: what callers type is
    /// endless.
    pub is_listed: bool,
    /// The request named an alias or a policy: answers show that name, and not the provider's.
    pub is_alias: bool,
    /// The platform's name for the attempt, under which it is reported.
    pub id: Option<Box<str>>,
    /// Where it stands in the plan, for metrics: the platform's number, else counted from 0.
    pub position: u32,
    /// Why it stands where it stands: `default`, `router:weighted`, `on_failure`.
    pub reason: Option<&'static str>,
    /// How long a stream that is open may be silent before its first event; `None`: as long as before any other.
    pub first_event_timeout: Option<Duration>,
}

/// What a request asks of the budgets it falls under.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Who calls: a key may have ceilings of its own, or be kept out of budgets.
    pub caller: &'a Caller,
    /// Who pays.
    pub user_id: &'a Arc<str>,
    /// Where it may go: a ceiling may be for one provider only.
    pub attempts: &'a [Attempt],
    /// The most the first attempt is expected to cost.
    pub estimate: MicroUsd,
    /// The first attempt's model costs nothing: nothing is held.
    pub free: bool,
}

/// What has a budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A user, by id.
    User(Arc<str>),
    /// A ceiling over an API key, by its own id.
    Ceiling(Arc<str>),
}

/// One budget that holds money for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Whose.
    pub scope: Scope,
    /// The ceiling counts calls to this provider only.
    pub provider: Option<Arc<str>>,
    /// The money is out of this gateway's lease.
    pub leased: bool,
}

/// Budget held for a request. It must be given back through [`ControlPlane::settle`] or [`ControlPlane::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a hold that is dropped is never released"]
pub struct Reservation {
    /// Who pays.
    pub user_id: Arc<str>,
    /// How much, in each of `holds`; zero when there are none.
    pub held: MicroUsd,
    /// Every budget that holds it; empty when there is none or the model is free.
    pub holds: Vec<Hold>,
    /// Budgets that hold nothing yet: the first attempt is free, or does not count against them. See
    /// [`ControlPlane::cover`].
    pub later: Vec<Hold>,
    /// Whether what the request costs counts at all.
    pub counts: bool,
}

/// The end of a report: what the platform says the attempt cost, if it says so.
pub type Settling = Pin<Box<dyn Future<Output = Option<Cost>> + Send + Sync>>;

/// The world as a request sees it. Two of them: the gateway's own store, and a remote platform.
#[async_trait]
pub trait ControlPlane: Send + Sync {
    /// Who is calling? Refuses with the 401 codes, `unavailable` when it cannot know.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Rejection>;

    /// Who pays, given the user the request names? Refuses with `user_required`, `user_mismatch`, `key_without_user`.
    fn bill(&self, caller: &Caller, requested: Option<&str>) -> Result<Billed, Rejection>;

    /// Which upstreams to try. `user_id`: who pays; names may be theirs alone. Refuses with `model_not_permitted`,
    /// `model_not_found`, `ambiguous_model`, and with what the platform says.
    async fn resolve(
        &self,
        caller: &Caller,
        user_id: Option<&str>,
        wanted: Wanted<'_>,
    ) -> Result<Plan, Rejection>;

    /// Holds the estimate against every budget that the first attempt falls under.
    /// Refuses with `user_not_found`, `user_blocked`, `budget_exceeded`, `unavailable`.
    async fn reserve(&self, claim: Claim<'_>) -> Result<Reservation, Rejection>;

    /// Adds `more` to a hold. Refuses with `budget_exceeded` and leaves the hold as it was.
    async fn top_up(&self, reservation: &mut Reservation, more: MicroUsd) -> Result<(), Rejection>;

    /// Lets the hold grow to `estimate`, what another attempt may cost, also in budgets that the first attempt did not
    /// fall under. Refuses with `budget_exceeded`, `unavailable`: the attempt must not be made.
    async fn cover(
        &self,
        reservation: &mut Reservation,
        attempt: &Attempt,
        estimate: MicroUsd,
    ) -> Result<(), Rejection> {
        let _ = attempt;
        match estimate > reservation.held {
            true => self.top_up(reservation, estimate - reservation.held).await,
            false => Ok(()),
        }
    }

    /// Gives a hold back: nothing was spent.
    fn release(&self, reservation: Reservation);

    /// Records one finished attempt; the last one brings the hold. Durable against the end of this process when it
    /// returns. Not `async`: it also runs while a panic unwinds, where nothing can be awaited. What it returns may be
    /// waited for, by those who want to know what the platform made of it; dropping it stops nothing.
    fn settle(&self, finished: Finished) -> Option<Settling>;
}
