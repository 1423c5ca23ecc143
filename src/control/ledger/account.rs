//! One budget's counters, and the arithmetic of a hold.
//!
//! Two ways to know what is left. A process that has the database to itself compares with the cap:
//! `spend + held + estimate <= max_budget`. A process that shares it holds a *lease*, a part of what is left that the
//! database gave to it alone: `used + held + estimate <= granted`. The database keeps the sum of all leases and the spend
//! within the cap, so each gateway decides by itself and all of them together stay within it.

use std::sync::Arc;

use otari_filters::money::MicroUsd;

use crate::period::Period;

/// Cap and period of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) max: Option<MicroUsd>,
    pub(super) period: Option<Period>,
}

/// What the database lets this gateway spend by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Everything granted so far, less what was given back.
    pub granted: MicroUsd,
    /// Everything settled out of it.
    pub used: MicroUsd,
}

/// How a hold is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// By the cap: nobody else spends.
    Alone,
    /// By the lease, which is worth something.
    Leased,
    /// By the lease, even though the period is over: the database that would start a new one is away.
    LeasedOverdue,
    /// The leases have run out: the database has not been heard of for too long.
    Expired,
}

/// What became of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is held.
    Held {
        /// Out of the lease.
        leased: bool,
        /// Less is left of the lease than was taken so far: time to ask for more.
        is_low: bool,
    },
    /// It does not fit.
    Exceeded,
    /// The lease is too small by so much, or the period is over: only the database can say.
    Short(MicroUsd),
}

/// One budget's state.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) spend: MicroUsd,
    pub(super) held: MicroUsd,
    pub(super) budget_id: Option<Arc<str>>,
    pub(super) started_us: Option<i64>,
    pub(super) next_reset_us: Option<i64>,
    /// When `spend` was last zero: what is older belongs to a period that is over.
    pub(super) since_us: Option<i64>,
    pub(super) lease: Lease,
    /// Its holds are on the list of those to be published.
    pub(super) is_noted: bool,
    /// What was held by the cap became a lease: holds that were taken before are paid out of it too.
    pub(super) is_converted: bool,
}

impl Account {
    /// Holds `estimate` under a budget with a cap.
    pub(super) fn hold(
        &mut self,
        max: MicroUsd,
        rule: Rule,
        estimate: MicroUsd,
        now_us: i64,
    ) -> Outcome {
        if rule == Rule::Alone {
            let used = self.spend + self.held;
            // At the cap nothing fits, not even nothing.
            if used >= max || used + estimate > max {
                return Outcome::Exceeded;
            }
            self.held += estimate;
            return Outcome::Held { leased: false, is_low: false };
        }
        let wanted = estimate.max(MicroUsd(1));
        let room = self.room();
        let is_over = rule == Rule::Leased && self.is_over(now_us);
        if rule == Rule::Expired || is_over || wanted > room {
            return Outcome::Short((wanted - room).max(MicroUsd::ZERO));
        }
        self.held += estimate;
        let left = room - estimate;
        // Also when the last grant was one request's own: then each request asks, which is what the cap wants.
        Outcome::Held { leased: true, is_low: left < self.lease.used + self.held }
    }

    /// Adds to a hold that is there.
    pub(super) fn top_up(&mut self, max: MicroUsd, leased: bool, more: MicroUsd) -> Outcome {
        if !leased {
            if self.spend + self.held + more > max {
                return Outcome::Exceeded;
            }
        } else if more > self.room() {
            return Outcome::Short(more - self.room());
        }
        self.held += more;
        Outcome::Held { leased, is_low: false }
    }

    /// Gives `held` back and, if the cost is this period's, adds it to the spend.
    pub(super) fn settle(&mut self, held: MicroUsd, cost: MicroUsd, leased: bool, at_us: i64) {
        self.held = (self.held - held).or_zero();
        if leased {
            self.lease.used += cost;
        }
        if self.since_us.is_none_or(|since| at_us >= since) {
            self.spend += cost;
        }
    }

    /// Whether the lease pays for a hold.
    pub(super) fn pays(&self, leased: bool) -> bool {
        leased || self.is_converted
    }

    /// What is left of the lease; below zero when calls cost more than they held.
    pub(super) fn room(&self) -> MicroUsd {
        self.lease.granted - self.lease.used - self.held
    }

    /// Whether the period has ended.
    pub(super) fn is_over(&self, now_us: i64) -> bool {
        self.next_reset_us.is_some_and(|due| due <= now_us)
    }

    /// Takes what is left out of the lease, to be given back.
    pub(super) fn take_room(&mut self) -> MicroUsd {
        let room = self.room().or_zero();
        self.lease.granted = self.lease.granted - room;
        room
    }

    /// Starts a period: what is held stays, it belongs to requests in flight.
    pub(super) fn start(&mut self, started_us: i64, next_reset_us: Option<i64>) {
        self.spend = MicroUsd::ZERO;
        self.started_us = Some(started_us);
        self.since_us = Some(started_us);
        self.next_reset_us = next_reset_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: MicroUsd = MicroUsd(100);

    fn leased(granted: i64) -> Account {
        let lease = Lease { granted: MicroUsd(granted), used: MicroUsd::ZERO };
        Account { lease, ..Account::default() }
    }

    #[test]
    fn a_lease_is_all_that_counts_when_there_is_one() {
        let mut account = Account { spend: MAX, ..leased(50) };
        let held = |leased, is_low| Outcome::Held { leased, is_low };
        assert_eq!(account.hold(MAX, Rule::Leased, MicroUsd(20), 0), held(true, false));
        assert_eq!(account.hold(MAX, Rule::Leased, MicroUsd(20), 0), held(true, true));
        assert_eq!(
            account.hold(MAX, Rule::Leased, MicroUsd(20), 0),
            Outcome::Short(MicroUsd(10)),
            "the lease is too small by ten"
        );
        account.settle(MicroUsd(20), MicroUsd(5), true, 0);
        assert_eq!(account.room(), MicroUsd(25), "50 less 5 used less 20 held");
        assert_eq!(account.take_room(), MicroUsd(25));
        assert_eq!(account.room(), MicroUsd::ZERO);
        account.settle(MicroUsd(20), MicroUsd(30), true, 0);
        assert_eq!(account.room(), MicroUsd(-10), "it cost more than it held");
        assert_eq!(account.take_room(), MicroUsd::ZERO);
        assert_eq!(account.hold(MAX, Rule::Leased, MicroUsd(1), 0), Outcome::Short(MicroUsd(11)));
    }

    #[test]
    fn an_empty_lease_refuses_even_a_free_estimate() {
        let mut account = leased(0);
        assert_eq!(account.hold(MAX, Rule::Leased, MicroUsd::ZERO, 0), Outcome::Short(MicroUsd(1)));
        assert!(matches!(
            leased(1).hold(MAX, Rule::Leased, MicroUsd::ZERO, 0),
            Outcome::Held { .. }
        ));
    }

    #[test]
    fn an_ended_period_and_an_expired_lease_ask_the_database() {
        let mut account = Account { next_reset_us: Some(7), ..leased(50) };
        assert!(matches!(account.hold(MAX, Rule::Leased, MicroUsd(1), 6), Outcome::Held { .. }));
        assert_eq!(account.hold(MAX, Rule::Leased, MicroUsd(1), 7), Outcome::Short(MicroUsd::ZERO));
        assert_eq!(
            account.hold(MAX, Rule::Expired, MicroUsd(1), 6),
            Outcome::Short(MicroUsd::ZERO)
        );
        assert!(matches!(
            account.hold(MAX, Rule::LeasedOverdue, MicroUsd(1), 7),
            Outcome::Held { .. }
        ));
    }

    #[test]
    fn a_late_record_belongs_to_the_period_that_is_over() {
        let mut account = Account { spend: MicroUsd(40), held: MicroUsd(10), ..leased(0) };
        account.start(100, Some(200));
        account.settle(MicroUsd(5), MicroUsd(5), false, 99);
        assert_eq!((account.spend, account.held), (MicroUsd::ZERO, MicroUsd(5)));
        account.settle(MicroUsd(5), MicroUsd(5), false, 100);
        assert_eq!(account.spend, MicroUsd(5));
    }
}
