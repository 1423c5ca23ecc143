//! `ControlPlane`: the questions a request asks of the world, in the order in which it asks them.

use std::sync::Arc;

use async_trait::async_trait;

use crate::money::{MicroUsd, Rate};
use crate::rejection::Rejection;
use crate::settle::UsageRecord;
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
    },
}

impl Caller {
    /// Id of the key, `None` for the master key.
    pub fn key_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Master => None,
            Self::Key { id, .. } => Some(id),
        }
    }
}

/// Who pays, and whether the name in the request was theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Billed {
    /// The user whose budget and spend are charged.
    pub user_id: Arc<str>,
    /// The request's `user` is a label of the caller's own: it goes on to the provider.
    pub keeps_label: bool,
}

/// What a model costs, as of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Per million input tokens.
    pub input: Rate,
    /// Per million output tokens.
    pub output: Rate,
}

impl Prices {
    /// The cost of so many tokens.
    pub fn cost(&self, prompt_tokens: u64, completion_tokens: u64) -> MicroUsd {
        crate::money::cost(&[(prompt_tokens, self.input), (completion_tokens, self.output)])
    }

    /// Whether nothing can ever be charged.
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }
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
    /// `None`: unpriced.
    pub prices: Option<Prices>,
}

/// Budget held for a request. It must be given back through [`ControlPlane::settle`] or [`ControlPlane::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a hold that is dropped is never released"]
pub struct Reservation {
    /// Whose budget.
    pub user_id: Arc<str>,
    /// How much; zero when the user has no budget or the model is free.
    pub held: MicroUsd,
}

/// The world as a request sees it. Two of them: the gateway's own store, and a remote platform.
#[async_trait]
pub trait ControlPlane: Send + Sync {
    /// Who is calling? Refuses with the 401 codes, `unavailable` when it cannot know.
    async fn authenticate(&self, token: &str) -> Result<Caller, Rejection>;

    /// Who pays, given the user the request names? Refuses with `user_required`, `user_mismatch`, `key_without_user`.
    fn bill(&self, caller: &Caller, requested: Option<&str>) -> Result<Billed, Rejection>;

    /// Which upstreams to try, best first; never empty. Refuses with `model_not_found`, `ambiguous_model`.
    async fn resolve(&self, caller: &Caller, model: &str) -> Result<Vec<Attempt>, Rejection>;

    /// Holds `estimate` against the user's budget; `free`: the model costs nothing, so nothing is held.
    /// Refuses with `user_not_found`, `user_blocked`, `budget_exceeded`.
    async fn reserve(
        &self,
        user_id: &Arc<str>,
        estimate: MicroUsd,
        free: bool,
    ) -> Result<Reservation, Rejection>;

    /// Adds `more` to a hold. Refuses with `budget_exceeded` and leaves the hold as it was.
    fn top_up(&self, reservation: &mut Reservation, more: MicroUsd) -> Result<(), Rejection>;

    /// Gives a hold back: nothing was spent.
    fn release(&self, reservation: Reservation);

    /// Records one finished attempt; the last one brings the hold. Durable against the end of this process when it
    /// returns. Not `async`: it also runs while a panic unwinds, where nothing can be awaited.
    fn settle(&self, record: UsageRecord, reservation: Option<Reservation>);
}
