//! What gateways on one database need of it: leases on budgets, a sign of life, and word of each other's changes.

use std::collections::HashMap;

use async_trait::async_trait;
use otari_filters::control::Scope;
use otari_filters::gcra;
use otari_filters::money::MicroUsd;
use tokio::sync::mpsc;

use super::StoreError;

/// A step to enlarge a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Take {
    /// Whose budget.
    pub scope: Scope,
    /// Number of the step, counted per scope: a step that is repeated is taken once.
    pub serial: i64,
    /// The least that is of use; zero when it is only time for more.
    pub needed: MicroUsd,
    /// What the requests that wait behind it want together.
    pub queued: MicroUsd,
    /// What one request takes: the lease shrinks to it as the cap nears.
    pub typical: MicroUsd,
    /// Now, for periods: microseconds since 1970.
    pub now_us: i64,
    /// When the other gateways were asked to give back, by the database's clock; `None`: not yet.
    pub recalled_at_us: Option<i64>,
}

/// The running period of a scope, in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Its start.
    pub started_us: Option<i64>,
    /// Its end.
    pub next_reset_us: Option<i64>,
    /// When spend was last zero.
    pub since_us: Option<i64>,
}

/// What a lease became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The lease has grown by so much.
    Granted {
        /// By so much, `needed` or more.
        amount: MicroUsd,
        /// The period, a new one if it was due.
        window: Window,
    },
    /// What is needed is not left.
    Refused {
        /// What is left.
        room: MicroUsd,
        /// Other gateways may give some back: they live, and have not answered since `recalled_at_us`.
        others: bool,
        /// The database's clock, in microseconds since 1970.
        at_us: i64,
        /// The period, a new one if it was due.
        window: Window,
    },
    /// There is no cap any more, or no such scope.
    Uncapped,
}

/// What a sign of life found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The leases are good for another while.
    Alive,
    /// They were given to others, because this gateway was silent for too long.
    Lost,
}

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An API key.
    Key,
    /// A user.
    User,
    /// A budget.
    Budget,
    /// The prices of a model.
    Price,
    /// An alias.
    Alias,
    /// A ceiling.
    Ceiling,
    /// A run-time setting.
    Setting,
}

/// A row to be read again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Of which table.
    pub kind: Kind,
    /// Its id; of a price the model key.
    pub id: String,
}

/// A word from another gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Something was changed: ask [`Shared::changes`].
    Changed,
    /// Somebody needs what is left of the lease on this scope.
    Recall(Scope),
}

/// What a gateway asks of a common rate limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateAsk {
    /// The limit and whose it is; in the order of the alphabet.
    pub subject: String,
    /// What.
    pub ask: gcra::Ask,
}

/// Requests that a gateway has under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RatePlaces {
    /// The limit and whose they are; in the order of the alphabet.
    pub subject: String,
    /// How many.
    pub count: u32,
}

/// What is asked of a database that it is never configured for.
fn never() -> StoreError {
    StoreError::Refused { message: "not with this kind of database".into() }
}

/// A lease is larger than a request by so much, or it is the request's own.
const WORTH: i64 = 16;

/// How much of what is left one gateway gets: all of it when it is alone, a part of it when it is not, and no more than
/// the requests that wait need when the cap is near.
pub(super) fn share(room: MicroUsd, gateways: i64, take: &Take) -> MicroUsd {
    let part = if gateways <= 1 { room.0 } else { room.0 / (2 * gateways) };
    let is_far = part >= take.typical.max(take.needed).0.saturating_mul(WORTH);
    let wanted = take.needed + take.queued;
    if is_far || gateways <= 1 {
        MicroUsd(part).max(take.needed)
    } else {
        wanted.min(room).max(take.needed)
    }
}

/// A database that several gateways share.
#[async_trait]
pub trait Shared: Send + Sync {
    /// The same database as the gateway of this id sees it: for whoever brings on what that one left. It must be gone.
    fn heir_of(&self, id: &str) -> std::sync::Arc<dyn super::Store>;
    /// Whether all gateways on the database are processes of one machine.
    fn is_on_one_machine(&self) -> bool {
        false
    }
    /// Makes this gateway known by `id`. Leases it had under that id are still there, until [`Shared::forget_leases`].
    async fn join(&self, id: &str) -> Result<(), StoreError>;
    /// Takes over as leases what this gateway holds, which had the database to itself until now.
    async fn hold(&self, _: &[(Scope, MicroUsd)]) -> Result<(), StoreError> {
        Err(never())
    }
    /// Nobody else is there: what gateways that died have left of leases is void. Where nobody can know that, nothing.
    async fn forget_all(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Gives back every lease of this gateway: nothing is held, and everything settled has been applied.
    async fn forget_leases(&self) -> Result<(), StoreError>;
    /// Says that this gateway lives, and lets go of gateways that have not for `ttl_s` seconds.
    async fn beat(&self, ttl_s: i64) -> Result<Beat, StoreError>;
    /// Leaves: leases go back, and nobody waits for this gateway.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Enlarges a lease, and starts a new period first when the old one is over. In one transaction:
    /// `spend + sum of leases + what batches hold <= max_budget` is true before and after.
    async fn take(&self, take: &Take) -> Result<Taken, StoreError>;
    /// Makes a lease smaller, and tells whoever asked that it was all there was to give. `serial` numbers these steps
    /// by themselves, so that giving never waits for taking.
    async fn give(&self, scope: &Scope, serial: i64, amount: MicroUsd) -> Result<(), StoreError>;
    /// Asks the other gateways to give back what they do not need of their leases on this scope.
    async fn recall(&self, scope: &Scope) -> Result<(), StoreError>;
    /// Publishes what is held in each scope, for the others to show.
    async fn publish(&self, held: &[(Scope, MicroUsd)]) -> Result<(), StoreError>;
    /// What the other gateways hold in a scope, as last published, and what batches do.
    async fn held_elsewhere(&self, scope: &Scope) -> Result<MicroUsd, StoreError>;
    /// How many scopes that were ever leased have spend, leases and batches above their cap.
    async fn over_cap(&self) -> Result<i64, StoreError>;

    /// One exchange with common rate limits; the answers in the order of `asks`.
    async fn rates(&self, _: &[RateAsk]) -> Result<Vec<gcra::Granted>, StoreError> {
        Err(never())
    }
    /// Publishes what is under way here. By subject: what other gateways that live have under way, and how many of them
    /// have used it lately.
    async fn rate_places(
        &self,
        _own: &[RatePlaces],
    ) -> Result<HashMap<String, (u32, u32)>, StoreError> {
        Err(never())
    }
    /// How many gateways live, this one included. `forgets`: lets go of limits that nobody has used lately.
    async fn rate_gateways(&self, _forgets: bool) -> Result<u32, StoreError> {
        Err(never())
    }

    /// What was changed since the last call, by anybody; each change at least once. `None`: too long ago to know, read
    /// everything again.
    async fn changes(&self) -> Result<Option<Vec<Change>>, StoreError>;
    /// Sends every word of other gateways to `notices` for as long as the connection lasts; a full queue loses some.
    async fn listen(&self, notices: mpsc::Sender<Notice>) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_shrinks_to_one_request_as_the_cap_nears() {
        let take = |needed, typical| Take {
            scope: Scope::User("u".into()),
            serial: 1,
            needed: MicroUsd(needed),
            queued: MicroUsd(25),
            typical: MicroUsd(typical),
            now_us: 0,
            recalled_at_us: None,
        };
        let share = |room, gateways, take: &Take| share(MicroUsd(room), gateways, take).0;
        assert_eq!(share(1_000, 1, &take(10, 10)), 1_000, "nobody else needs any");
        assert_eq!(share(1_000, 2, &take(10, 10)), 250, "half of its half");
        assert_eq!(
            share(600, 2, &take(10, 10)),
            35,
            "16 requests do not fit: only those that wait"
        );
        assert_eq!(share(20, 2, &take(10, 10)), 20, "as far as it goes");
        assert_eq!(share(9, 1, &take(10, 10)), 10, "the caller sees that it does not fit");
    }
}
