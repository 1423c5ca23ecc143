//! Budgets, decided in memory: what each user has spent and what is held for requests in flight.
//!
//! Invariant, per user with a capped budget: a hold is granted only while `spend + held + estimate <= max_budget`.
//! The lock is the user's own and is held for a few additions; nothing is awaited under it.

use std::sync::Arc;

use otari_filters::control::Reservation;
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::settle::BudgetReset;
use papaya::HashMap;
use parking_lot::Mutex;

use crate::store::{BudgetRow, UserChange, UserRow};

/// Cap and period of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    max: Option<MicroUsd>,
    duration_us: Option<i64>,
}

/// One user's state.
#[derive(Debug, Default)]
struct Account {
    spend: MicroUsd,
    held: MicroUsd,
    budget_id: Option<Arc<str>>,
    started_us: Option<i64>,
    next_reset_us: Option<i64>,
    blocked: bool,
    deleted: bool,
}

/// A user's counters, for the management API.
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

/// All users and budgets.
#[derive(Debug)]
pub struct Ledger {
    accounts: HashMap<Arc<str>, Arc<Mutex<Account>>>,
    budgets: HashMap<Arc<str>, Terms>,
    enforces: bool,
    changes: tokio::sync::Mutex<()>,
}

impl Ledger {
    /// An empty ledger. `enforces`: caps and holds are on.
    pub fn new(enforces: bool) -> Self {
        let changes = tokio::sync::Mutex::new(());
        Self { accounts: HashMap::new(), budgets: HashMap::new(), enforces, changes }
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
        let duration_us = row.budget_duration_sec.map(|seconds| seconds.saturating_mul(1_000_000));
        let terms = Terms { max: row.max_budget, duration_us };
        self.budgets.pin().insert(row.budget_id.as_str().into(), terms);
    }

    /// Forgets a budget. Its users are capped no more; their periods keep their dates.
    pub fn remove_budget(&self, budget_id: &str) {
        self.budgets.pin().remove(budget_id);
        for account in self.accounts.pin().values() {
            let mut account = account.lock();
            account.budget_id.take_if(|id| **id == *budget_id);
        }
    }

    /// Takes over a user who was read at start, created, or revived: the row's spend counts from here on. Holds of a
    /// user who was known stay.
    pub fn put_user(&self, row: &UserRow) {
        let accounts = self.accounts.pin();
        let account = accounts.get_or_insert_with(row.user_id.as_str().into(), Arc::default);
        let mut account = account.lock();
        let held = account.held;
        *account = Account {
            spend: row.spend,
            held,
            budget_id: row.budget_id.as_deref().map(Arc::from),
            started_us: row.budget_started_at.map(|at| at.as_microsecond()),
            next_reset_us: row.next_budget_reset_at.map(|at| at.as_microsecond()),
            blocked: row.blocked,
            deleted: row.deleted_at.is_some(),
        };
    }

    /// Changes a user; `row` is what the store made of it. Spend and holds of a live user stay, because the store is
    /// behind: it does not know yet what was settled a moment ago.
    pub fn change_user(&self, row: &UserRow, change: &UserChange) {
        if !self.knows(&row.user_id) {
            return self.put_user(row);
        }
        let accounts = self.accounts.pin();
        let Some(account) = accounts.get(row.user_id.as_str()) else { return };
        let mut account = account.lock();
        if let Some(blocked) = change.blocked {
            account.blocked = blocked;
        }
        if let Some(budget) = &change.budget {
            let budget = budget.as_ref();
            account.budget_id = budget.map(|budget| budget.budget_id.as_str().into());
            account.started_us = budget.map(|budget| budget.started_at.as_microsecond());
            account.next_reset_us =
                budget.and_then(|budget| budget.ends_at).map(|at| at.as_microsecond());
        }
    }

    /// Refuses a user from now on. Requests in flight end as they would have, and give their holds back.
    pub fn delete_user(&self, user_id: &str) {
        if let Some(account) = self.accounts.pin().get(user_id) {
            account.lock().deleted = true;
        }
    }

    /// Whether a live user of this id exists.
    pub fn knows(&self, user_id: &str) -> bool {
        self.accounts.pin().get(user_id).is_some_and(|account| !account.lock().deleted)
    }

    /// A user's counters as they are now.
    pub fn counters(&self, user_id: &str) -> Option<Counters> {
        self.accounts.pin().get(user_id).map(|account| {
            let account = account.lock();
            Counters {
                spend: account.spend,
                held: account.held,
                started_us: account.started_us,
                next_reset_us: account.next_reset_us,
            }
        })
    }

    /// Sum of all holds: zero when no request is in flight.
    pub fn total_held(&self) -> MicroUsd {
        self.accounts.pin().values().map(|account| account.lock().held).sum()
    }

    /// Holds `estimate`, after rolling the period over when it is due. `free`: nothing is held.
    ///
    /// A period that ended is returned beside the answer, because it ended whether or not the hold was granted: the
    /// caller journals it.
    ///
    /// # Errors
    /// `user_not_found`, `user_blocked`, `budget_exceeded`.
    pub fn reserve(
        &self,
        user_id: &Arc<str>,
        estimate: MicroUsd,
        free: bool,
        now_us: i64,
    ) -> (Result<Reservation, Rejection>, Option<BudgetReset>) {
        let accounts = self.accounts.pin();
        let Some(account) = accounts.get(user_id) else { return (Err(not_found(user_id)), None) };
        let mut account = account.lock();
        if account.deleted {
            return (Err(not_found(user_id)), None);
        }
        if account.blocked {
            let message = format!("User '{user_id}' is blocked");
            return (Err(Rejection::new(Code::UserBlocked, message)), None);
        }
        let none = Reservation { user_id: user_id.clone(), held: MicroUsd::ZERO };
        let budgets = self.budgets.pin();
        let terms = account.budget_id.as_ref().and_then(|id| budgets.get(id)).copied();
        let Some(terms) = terms.filter(|_| self.enforces) else { return (Ok(none), None) };
        let reset = roll_over(&mut account, user_id, terms, now_us);
        if free {
            return (Ok(none), reset);
        }
        let used = account.spend + account.held;
        if terms.max.is_some_and(|max| used >= max || used + estimate > max) {
            return (Err(exceeded(user_id)), reset);
        }
        account.held += estimate;
        (Ok(Reservation { held: estimate, ..none }), reset)
    }

    /// Adds `more` to a hold.
    ///
    /// # Errors
    /// `budget_exceeded`; the hold stays as it was.
    pub fn top_up(&self, reservation: &mut Reservation, more: MicroUsd) -> Result<(), Rejection> {
        let user_id = reservation.user_id.clone();
        let accounts = self.accounts.pin();
        let Some(account) = accounts.get(&user_id) else { return Ok(()) };
        let mut account = account.lock();
        let budgets = self.budgets.pin();
        let terms = account.budget_id.as_ref().and_then(|id| budgets.get(id));
        let Some(terms) = terms.filter(|_| self.enforces) else { return Ok(()) };
        if terms.max.is_some_and(|max| account.spend + account.held + more > max) {
            return Err(exceeded(&user_id));
        }
        account.held += more;
        reservation.held += more;
        Ok(())
    }

    /// Adds `cost` to the user's spend and gives the hold back. Users deleted meanwhile are passed over.
    pub fn settle(&self, user_id: &str, cost: MicroUsd, reservation: Option<Reservation>) {
        if let Some(account) = self.accounts.pin().get(user_id) {
            let mut account = account.lock();
            if let Some(reservation) = reservation {
                account.held = (account.held - reservation.held).or_zero();
            }
            if !account.deleted {
                account.spend += cost.or_zero();
            }
        }
    }
}

/// Starts a new period when the old one is over; the hold stays, it belongs to requests in flight.
fn roll_over(
    account: &mut Account,
    user_id: &Arc<str>,
    terms: Terms,
    now_us: i64,
) -> Option<BudgetReset> {
    let due_at_us = account.next_reset_us.filter(|due| *due <= now_us)?;
    let reset = BudgetReset {
        user_id: user_id.clone(),
        budget_id: account.budget_id.clone()?,
        previous_spend: account.spend,
        due_at_us,
        reset_at_us: now_us,
        next_reset_at_us: terms.duration_us.map(|duration| now_us.saturating_add(duration)),
    };
    account.spend = MicroUsd::ZERO;
    account.started_us = Some(now_us);
    account.next_reset_us = reset.next_reset_at_us;
    Some(reset)
}

fn not_found(user_id: &str) -> Rejection {
    Rejection::new(Code::UserNotFound, format!("User '{user_id}' not found"))
}

fn exceeded(user_id: &str) -> Rejection {
    Rejection::new(Code::BudgetExceeded, format!("User '{user_id}' has exceeded budget limit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::timestamp;
    use crate::store::Assignment;

    const DAY_US: i64 = 86_400_000_000;

    fn ledger(max: Option<i64>, days: Option<i64>) -> (Ledger, Arc<str>) {
        let ledger = Ledger::new(true);
        ledger.put_budget(&BudgetRow {
            budget_id: "b".into(),
            max_budget: max.map(MicroUsd),
            created_at: timestamp(0),
            updated_at: timestamp(0),
            budget_duration_sec: days.map(|d| d * 86_400),
        });
        ledger.put_user(&user(days.map(|d| d * DAY_US)));
        (ledger, "u".into())
    }

    fn user(next_reset_us: Option<i64>) -> UserRow {
        UserRow {
            user_id: "u".into(),
            alias: None,
            spend: MicroUsd::ZERO,
            reserved: MicroUsd::ZERO,
            budget_id: Some("b".into()),
            blocked: false,
            created_at: timestamp(0),
            updated_at: timestamp(0),
            metadata: serde_json::Map::new(),
            budget_started_at: None,
            next_budget_reset_at: next_reset_us.map(timestamp),
            deleted_at: None,
        }
    }

    fn hold(ledger: &Ledger, user: &Arc<str>, estimate: i64) -> Result<Reservation, Code> {
        ledger.reserve(user, MicroUsd(estimate), false, 0).0.map_err(|refused| refused.code)
    }

    #[test]
    fn concurrent_holds_never_pass_the_limit() {
        let (ledger, user) = ledger(Some(100), None);
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| hold(&ledger, &user, 40).is_ok())).collect();
            threads.into_iter().filter_map(|t| t.join().ok()).map(usize::from).sum()
        });
        assert_eq!(granted, 2, "two holds of 40 fit in 100; the third must be refused");
    }

    #[test]
    fn a_settled_hold_becomes_spend() {
        let (ledger, user) = ledger(Some(100), None);
        let held = hold(&ledger, &user, 60).unwrap();
        ledger.settle("u", MicroUsd(25), Some(held));
        let now = ledger.counters("u").unwrap();
        assert_eq!((now.spend, now.held), (MicroUsd(25), MicroUsd::ZERO));
    }

    #[test]
    fn a_user_at_the_cap_is_refused_even_a_free_estimate() {
        let (ledger, user) = ledger(Some(10), None);
        ledger.settle("u", MicroUsd(10), None);
        assert_eq!(hold(&ledger, &user, 0).unwrap_err(), Code::BudgetExceeded);
        assert!(ledger.reserve(&user, MicroUsd(5), true, 0).0.is_ok(), "free models stay open");
    }

    #[test]
    fn a_budget_without_a_cap_holds_without_end() {
        let (ledger, user) = ledger(None, None);
        assert_eq!(hold(&ledger, &user, i64::MAX / 2).unwrap().held, MicroUsd(i64::MAX / 2));
    }

    #[test]
    fn a_refused_top_up_leaves_the_hold() {
        let (ledger, user) = ledger(Some(100), None);
        let mut held = hold(&ledger, &user, 60).unwrap();
        assert!(ledger.top_up(&mut held, MicroUsd(30)).is_ok());
        assert!(ledger.top_up(&mut held, MicroUsd(30)).is_err());
        assert_eq!(held.held, MicroUsd(90));
        assert_eq!(ledger.total_held(), MicroUsd(90));
    }

    #[test]
    fn a_period_that_is_over_starts_again_once() {
        let (ledger, user) = ledger(Some(100), Some(1));
        ledger.settle("u", MicroUsd(100), None);
        assert_eq!(hold(&ledger, &user, 1).unwrap_err(), Code::BudgetExceeded);
        let (_, reset) = ledger.reserve(&user, MicroUsd(1_000), false, DAY_US + 7);
        let reset = reset.expect("the period ended, although the hold was refused");
        assert_eq!(reset.previous_spend, MicroUsd(100));
        assert_eq!(reset.next_reset_at_us, Some(2 * DAY_US + 7), "the window starts now");
        assert!(ledger.reserve(&user, MicroUsd(1), false, DAY_US + 8).1.is_none());
    }

    #[test]
    fn a_change_leaves_spend_and_holds_alone() {
        let (ledger, user_id) = ledger(Some(100), Some(1));
        ledger.settle("u", MicroUsd(40), None);
        let held = hold(&ledger, &user_id, 30).unwrap();
        let stale = UserRow { spend: MicroUsd(1), ..user(Some(DAY_US)) };
        ledger.change_user(&stale, &UserChange { blocked: Some(true), ..UserChange::default() });
        assert_eq!(hold(&ledger, &user_id, 1).unwrap_err(), Code::UserBlocked);
        let restart = Assignment {
            budget_id: "b".into(),
            started_at: timestamp(5),
            ends_at: Some(timestamp(2 * DAY_US)),
        };
        let change = UserChange {
            blocked: Some(false),
            budget: Some(Some(restart)),
            ..UserChange::default()
        };
        ledger.change_user(&stale, &change);
        let expected = Counters {
            spend: MicroUsd(40),
            held: MicroUsd(30),
            started_us: Some(5),
            next_reset_us: Some(2 * DAY_US),
        };
        assert_eq!(ledger.counters("u"), Some(expected));
        assert_eq!(hold(&ledger, &user_id, 31).unwrap_err(), Code::BudgetExceeded);

        ledger.change_user(&stale, &UserChange { budget: Some(None), ..UserChange::default() });
        let detached = Counters { started_us: None, next_reset_us: None, ..expected };
        assert_eq!(ledger.counters("u"), Some(detached), "both dates go with the budget");
        assert_eq!(hold(&ledger, &user_id, 1_000).unwrap().held, MicroUsd::ZERO, "no cap, no hold");
        ledger.settle("u", MicroUsd(25), Some(held));
        assert_eq!(ledger.total_held(), MicroUsd::ZERO);
    }

    #[test]
    fn a_changed_cap_counts_at_once_also_for_what_is_held() {
        let (ledger, user_id) = ledger(Some(100), None);
        let budget = |max: i64| BudgetRow {
            budget_id: "b".into(),
            max_budget: Some(MicroUsd(max)),
            created_at: timestamp(0),
            updated_at: timestamp(0),
            budget_duration_sec: None,
        };
        let mut held = hold(&ledger, &user_id, 60).unwrap();
        ledger.put_budget(&budget(70));
        assert!(ledger.top_up(&mut held, MicroUsd(20)).is_err(), "60 + 20 is over the new cap");
        assert_eq!(hold(&ledger, &user_id, 11).unwrap_err(), Code::BudgetExceeded);
        ledger.put_budget(&budget(200));
        assert!(ledger.top_up(&mut held, MicroUsd(20)).is_ok());
        ledger.remove_budget("b");
        assert!(ledger.top_up(&mut held, MicroUsd(1_000_000)).is_ok(), "no budget, no cap");
        ledger.settle("u", MicroUsd(7), Some(held));
        let now = ledger.counters("u").unwrap();
        assert_eq!((now.spend, now.held), (MicroUsd(7), MicroUsd::ZERO));
    }

    #[test]
    fn a_deleted_user_is_refused_until_revived_with_nothing_spent() {
        let (ledger, user_id) = ledger(Some(100), None);
        ledger.settle("u", MicroUsd(40), None);
        let held = hold(&ledger, &user_id, 30).unwrap();
        ledger.delete_user("u");
        assert_eq!(hold(&ledger, &user_id, 1).unwrap_err(), Code::UserNotFound);
        assert!(!ledger.knows("u"));
        ledger.put_user(&user(None));
        let now = ledger.counters("u").unwrap();
        assert_eq!((now.spend, now.held), (MicroUsd::ZERO, MicroUsd(30)), "still in flight");
        ledger.settle("u", MicroUsd(5), Some(held));
        let now = ledger.counters("u").unwrap();
        assert_eq!((now.spend, now.held), (MicroUsd(5), MicroUsd::ZERO));
    }

    #[test]
    fn strangers_and_blocked_users_are_refused() {
        let (ledger, user_id) = ledger(None, None);
        assert_eq!(hold(&ledger, &"nobody".into(), 0).unwrap_err(), Code::UserNotFound);
        ledger.put_user(&UserRow { blocked: true, ..user(None) });
        assert_eq!(hold(&ledger, &user_id, 0).unwrap_err(), Code::UserBlocked);
    }
}
