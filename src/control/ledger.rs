//! Budgets, decided in memory: what each user and each ceiling has spent, and what is held for requests in flight.
//!
//! Invariant, per scope with a cap: a hold is granted only while `spend + held + estimate <= max_budget`; where several
//! gateways share a database, the part of it that this one was given (`account.rs`, `leases.rs`). A lock is one
//! account's own and is held for a few additions; nothing is awaited under it.

mod account;
mod ceilings;
mod kept;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use otari_filters::control::{Attempt, Caller, Hold, Reservation, Scope};
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::settle::{BudgetReset, Charge, UsageRecord};
use papaya::HashMap;
use parking_lot::Mutex;

use self::account::{Account, Outcome, Terms};
pub use self::account::{Lease, Rule};
use self::ceilings::Ceilings;
use crate::store::{BudgetRow, UserChange, UserRow};

/// One user's state.
#[derive(Debug, Default)]
struct User {
    account: Account,
    blocked: bool,
    deleted: bool,
}

/// The counters of a user or a ceiling, for the management API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Settled spend of the period.
    pub spend: MicroUsd,
    /// Held for requests in flight.
    pub held: MicroUsd,
    /// Start of the period, in microseconds since 1970.
    pub started_us: Option<i64>,
    /// End of the period.
    pub next_reset_us: Option<i64>,
}

/// What became of one hold of a request.
#[derive(Debug)]
pub enum Decision {
    /// Nothing needs to be held here: no budget, or a free model.
    Open,
    /// It is held; `is_low`: the lease should grow.
    Held {
        /// Out of the lease.
        leased: bool,
        /// Time to ask for more.
        is_low: bool,
    },
    /// It does not fit, or the user is gone.
    Refused(Box<Rejection>),
    /// Only the database can say: the lease is too small by so much.
    Ask(MicroUsd),
}

/// All users, ceilings and budgets.
#[derive(Debug)]
pub struct Ledger {
    users: HashMap<Arc<str>, Arc<Mutex<User>>>,
    ceilings: Ceilings,
    budgets: HashMap<Arc<str>, Terms>,
    enforces: bool,
    shares: AtomicBool,
    /// It had the database to itself first.
    is_converted: AtomicBool,
    /// Held while a batch goes over to the database with what it holds.
    keeping: tokio::sync::RwLock<()>,
    /// Scopes whose holds moved since they were last published.
    noted: Mutex<Vec<Scope>>,
    changes: tokio::sync::Mutex<()>,
}

impl Ledger {
    /// An empty ledger. `enforces`: caps and holds are on. `shares`: other gateways spend from the same budgets.
    pub fn new(enforces: bool, shares: bool) -> Self {
        Self {
            users: HashMap::new(),
            ceilings: Ceilings::default(),
            budgets: HashMap::new(),
            enforces,
            shares: AtomicBool::new(shares),
            is_converted: AtomicBool::new(false),
            keeping: tokio::sync::RwLock::default(),
            noted: Mutex::default(),
            changes: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether other gateways spend from the same budgets: then only the database knows the whole spend.
    pub fn is_shared(&self) -> bool {
        self.shares.load(Ordering::Acquire)
    }

    /// The right to change keys, users, budgets or prices, one at a time: two changes of the same row could otherwise
    /// reach memory in another order than the store, and stay different. Requests never ask for it.
    ///
    /// Whoever holds it waits for the store only, whose calls have limits of their own.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Takes over a budget, new or changed. A new cap counts for the next hold, and for what is held already.
    pub fn put_budget(&self, row: &BudgetRow) {
        let terms = Terms { max: row.max_budget, period: row.period() };
        self.budgets.pin().insert(row.budget_id.as_str().into(), terms);
    }

    /// Forgets a budget. Its users are capped no more; their periods keep their dates.
    pub fn remove_budget(&self, budget_id: &str) {
        self.budgets.pin().remove(budget_id);
        for user in self.users.pin().values() {
            let mut user = user.lock();
            user.account.budget_id.take_if(|id| **id == *budget_id);
        }
    }

    /// Takes over a user who was read at start, created, or revived: the row's spend counts from here on. Holds of a
    /// user who was known stay.
    pub fn put_user(&self, row: &UserRow) {
        let users = self.users.pin();
        let user = users.get_or_insert_with(row.user_id.as_str().into(), Arc::default);
        let mut user = user.lock();
        let account = &mut user.account;
        account.spend = row.spend;
        account.budget_id = row.budget_id.as_deref().map(Arc::from);
        account.started_us = row.budget_started_at.map(|at| at.as_microsecond());
        account.next_reset_us = row.next_budget_reset_at.map(|at| at.as_microsecond());
        account.since_us = row.spend_since.map(|at| at.as_microsecond());
        user.blocked = row.blocked;
        user.deleted = row.deleted_at.is_some();
    }

    /// Changes a user; `row` is what the store made of it. Spend and holds of a live user stay, because the store is
    /// behind: it does not know yet what was settled a moment ago.
    pub fn change_user(&self, row: &UserRow, change: &UserChange) {
        if !self.knows(&row.user_id) {
            return self.put_user(row);
        }
        let users = self.users.pin();
        let Some(user) = users.get(row.user_id.as_str()) else { return };
        let mut user = user.lock();
        if let Some(blocked) = change.blocked {
            user.blocked = blocked;
        }
        if let Some(budget) = &change.budget {
            let budget = budget.as_ref();
            let account = &mut user.account;
            account.budget_id = budget.map(|budget| budget.budget_id.as_str().into());
            account.started_us = budget.map(|budget| budget.started_at.as_microsecond());
            account.next_reset_us =
                budget.and_then(|budget| budget.ends_at).map(|at| at.as_microsecond());
        }
    }

    /// Refuses a user from now on. Requests in flight end as they would have, and give their holds back.
    pub fn delete_user(&self, user_id: &str) {
        if let Some(user) = self.users.pin().get(user_id) {
            user.lock().deleted = true;
        }
    }

    /// Whether a live user of this id exists.
    pub fn knows(&self, user_id: &str) -> bool {
        self.users.pin().get(user_id).is_some_and(|user| !user.lock().deleted)
    }

    /// A user's counters as they are now.
    pub fn counters(&self, user_id: &str) -> Option<Counters> {
        self.users.pin().get(user_id).map(|user| counters(&user.lock().account))
    }

    /// Sum of all holds: zero when no request is in flight.
    pub fn total_held(&self) -> MicroUsd {
        let users: MicroUsd = self.users.pin().values().map(|user| user.lock().account.held).sum();
        users + self.ceilings.total_held()
    }

    /// What is held under each of these budgets, by live users.
    pub fn held_under(&self, budgets: &[&str]) -> Vec<MicroUsd> {
        let mut held = vec![MicroUsd::ZERO; budgets.len()];
        for user in self.users.pin().values() {
            let user = user.lock();
            if user.account.held == MicroUsd::ZERO || user.deleted {
                continue;
            }
            let budget = user.account.budget_id.as_deref();
            if let Some(at) = budgets.iter().position(|id| Some(*id) == budget) {
                held[at] += user.account.held;
            }
        }
        held
    }

    /// How many scopes have spent and hold more than their cap: none, unless a cap was lowered or an answer cost more
    /// than its hold. Where budgets are shared, the database counts instead.
    pub fn over_cap(&self) -> usize {
        let budgets = self.budgets.pin();
        let is_over = |account: &Account| {
            let terms = account.budget_id.as_ref().and_then(|id| budgets.get(id));
            let max = terms.and_then(|terms| terms.max);
            max.is_some_and(|max| account.spend + account.held > max)
        };
        let users = self.users.pin();
        users.values().filter(|user| is_over(&user.lock().account)).count()
            + self.ceilings.scopes_where(is_over).len()
    }

    /// The budgets a request may fall under, in the order in which they are asked: ceilings of the key, those for one
    /// provider first, then the user.
    pub fn scopes(&self, caller: &Caller, user_id: &Arc<str>, attempts: &[Attempt]) -> Vec<Hold> {
        let mut scopes = match caller.key_id() {
            Some(key) => self.ceilings.of_key(key, attempts),
            None => Vec::new(),
        };
        let has_budget = |user: &Arc<Mutex<User>>| user.lock().account.budget_id.is_some();
        if self.users.pin().get(user_id).is_some_and(has_budget) {
            scopes.push(Hold {
                scope: Scope::User(user_id.clone()),
                provider: None,
                leased: false,
            });
        }
        scopes
    }

    /// Whether the user may call at all.
    ///
    /// # Errors
    /// `user_not_found`, `user_blocked`.
    pub fn admit(&self, user_id: &str) -> Result<(), Rejection> {
        let users = self.users.pin();
        let Some(user) = users.get(user_id) else { return Err(not_found(user_id)) };
        let user = user.lock();
        if user.deleted {
            return Err(not_found(user_id));
        }
        if user.blocked {
            let message = format!("User '{user_id}' is blocked");
            return Err(Rejection::new(Code::UserBlocked, message));
        }
        Ok(())
    }

    /// Holds `estimate` in one scope, after rolling the period over when it is due. `free`: nothing is held.
    ///
    /// A period that ended is returned beside the answer, because it ended whether or not the hold was granted: the
    /// caller journals it.
    pub fn hold(
        &self,
        scope: &Scope,
        estimate: MicroUsd,
        free: bool,
        rule: Rule,
        now_us: i64,
    ) -> (Decision, Option<BudgetReset>) {
        let budgets = self.budgets.pin();
        let decide = |account: &mut Account| {
            let terms = account.budget_id.as_ref().and_then(|id| budgets.get(id)).copied();
            let Some(terms) = terms.filter(|_| self.enforces) else {
                return (Decision::Open, None);
            };
            // Another process has come since the rule was asked for.
            let is_late = rule == Rule::Alone && self.is_shared();
            let rule = if is_late { Rule::Expired } else { rule };
            let reset = match rule {
                Rule::Alone => roll_over(account, scope, terms, now_us),
                _ => None,
            };
            let decision = match terms.max {
                _ if free => Decision::Open,
                None => {
                    account.held += estimate;
                    Decision::Held { leased: false, is_low: false }
                }
                Some(max) => {
                    let decided = decision(account.hold(max, rule, estimate, now_us), scope);
                    if matches!(decided, Decision::Held { leased: true, .. })
                        && !std::mem::replace(&mut account.is_noted, true)
                    {
                        self.noted.lock().push(scope.clone());
                    }
                    decided
                }
            };
            (decision, reset)
        };
        self.with(scope, decide).unwrap_or((Decision::Open, None))
    }

    /// Adds `more` to a hold of this scope.
    pub fn top_up(&self, hold: &Hold, more: MicroUsd) -> Decision {
        let budgets = self.budgets.pin();
        let decide = |account: &mut Account| {
            let terms = account.budget_id.as_ref().and_then(|id| budgets.get(id));
            match terms.and_then(|terms| terms.max) {
                // Also when the budget was taken away meanwhile: the whole hold is given back in the end.
                None => {
                    account.held += more;
                    Decision::Held { leased: false, is_low: false }
                }
                Some(max) => {
                    let leased = account.pays(hold.leased);
                    decision(account.top_up(max, leased, more), &hold.scope)
                }
            }
        };
        self.with(&hold.scope, decide).unwrap_or(Decision::Open)
    }

    /// Takes part of a hold back.
    pub fn give_back(&self, hold: &Hold, amount: MicroUsd) {
        self.with(&hold.scope, |account| account.held = (account.held - amount).or_zero());
    }

    /// Says in the record which budgets its cost counts against.
    pub fn charge(&self, record: &mut UsageRecord, reservation: &Reservation) {
        record.counts_toward_budget &= reservation.counts;
        for hold in reservation.holds.iter() {
            match &hold.scope {
                Scope::User(_) => record.leased = self.pays(hold),
                Scope::Ceiling(id) if counts(hold, record) => {
                    record.ceilings.push(Charge { id: id.clone(), leased: self.pays(hold) });
                }
                Scope::Ceiling(_) => {}
            }
        }
    }

    /// Adds the record's cost to every scope it counts against and gives the holds back. Users deleted meanwhile are
    /// passed over.
    pub fn settle(&self, record: &UsageRecord, reservation: Option<&Reservation>) {
        let counted = record.cost.filter(|_| record.counts_toward_budget);
        let cost = counted.unwrap_or_default().or_zero();
        let at_us = record.timestamp_us;
        let mut is_user_done = false;
        for hold in reservation.iter().flat_map(|reservation| &reservation.holds) {
            let cost = if counts(hold, record) { cost } else { MicroUsd::ZERO };
            let held = reservation.map_or(MicroUsd::ZERO, |reservation| reservation.held);
            is_user_done |= matches!(hold.scope, Scope::User(_));
            self.with(&hold.scope, |account| {
                account.settle(held, cost, account.pays(hold.leased), at_us);
            });
        }
        if let Some(user_id) =
            record.user_id.as_ref().filter(|_| !is_user_done && cost > MicroUsd::ZERO)
        {
            let scope = Scope::User(user_id.clone());
            self.with(&scope, |account| account.settle(MicroUsd::ZERO, cost, false, at_us));
        }
    }

    /// Whether the lease pays for a hold: its own word counts, unless the lease came later than the hold.
    fn pays(&self, hold: &Hold) -> bool {
        let is_converted = || {
            let own = |account: &mut Account| account.is_converted;
            self.is_converted.load(Ordering::Acquire) && self.with(&hold.scope, own) == Some(true)
        };
        hold.leased || is_converted()
    }

    /// Gives holds back: nothing was spent.
    pub fn release(&self, reservation: &Reservation) {
        for hold in &reservation.holds {
            self.give_back(hold, reservation.held);
        }
    }

    /// Runs `work` on the account of a scope; `None` when there is none. Spend is not added for deleted users.
    fn with<T>(&self, scope: &Scope, work: impl FnOnce(&mut Account) -> T) -> Option<T> {
        match scope {
            Scope::User(id) => {
                let users = self.users.pin();
                let mut user = users.get(id)?.lock();
                let spend = user.account.spend;
                let answer = work(&mut user.account);
                if user.deleted {
                    user.account.spend = spend;
                }
                Some(answer)
            }
            Scope::Ceiling(id) => self.ceilings.with(id, work),
        }
    }
}

/// Whether the record's cost counts against the hold's budget.
fn counts(hold: &Hold, record: &UsageRecord) -> bool {
    hold.provider.as_deref().is_none_or(|only| record.provider.as_deref() == Some(only))
}

fn counters(account: &Account) -> Counters {
    Counters {
        spend: account.spend,
        held: account.held,
        started_us: account.started_us,
        next_reset_us: account.next_reset_us,
    }
}

fn decision(outcome: Outcome, scope: &Scope) -> Decision {
    match outcome {
        Outcome::Held { leased, is_low } => Decision::Held { leased, is_low },
        Outcome::Short(by) => Decision::Ask(by),
        Outcome::Exceeded => Decision::Refused(Box::new(exceeded(scope))),
    }
}

/// Starts a new period when the old one is over.
fn roll_over(
    account: &mut Account,
    scope: &Scope,
    terms: Terms,
    now_us: i64,
) -> Option<BudgetReset> {
    let due_at_us = account.next_reset_us.filter(|due| *due <= now_us)?;
    let reset = BudgetReset {
        scope: scope.clone(),
        budget_id: account.budget_id.clone()?,
        due_at_us,
        reset_at_us: now_us,
        next_reset_at_us: terms.period.and_then(|period| period.end_us(now_us)),
    };
    account.start(now_us, reset.next_reset_at_us);
    Some(reset)
}

fn not_found(user_id: &str) -> Rejection {
    Rejection::new(Code::UserNotFound, format!("User '{user_id}' not found"))
}

/// The refusal of a scope whose cap is reached.
pub fn exceeded(scope: &Scope) -> Rejection {
    let message = match scope {
        Scope::User(id) => format!("User '{id}' has exceeded budget limit"),
        Scope::Ceiling(_) => "API key has exceeded budget limit".to_owned(),
    };
    Rejection::new(Code::BudgetExceeded, message)
}

#[cfg(test)]
mod tests;
