//! Ceilings over API keys: shared caps beside the users' own budgets.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use otari_filters::control::{Attempt, Hold, Scope};
use otari_filters::money::MicroUsd;
use papaya::HashMap;
use parking_lot::Mutex;

use super::account::Account;
use super::{Counters, Ledger, counters};
use crate::store::CeilingRow;

#[derive(Debug)]
struct Ceiling {
    id: Arc<str>,
    key_id: Arc<str>,
    /// Only calls to this provider count.
    provider: Option<Arc<str>>,
    account: Mutex<Account>,
}

impl Ceiling {
    /// Those for one provider first.
    fn rank(&self) -> (bool, &str) {
        (self.provider.is_none(), &self.id)
    }
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(|at| at.as_microsecond())
}

fn ceiling(row: &CeilingRow) -> Ceiling {
    Ceiling {
        id: row.id.as_str().into(),
        key_id: row.scope_id.as_str().into(),
        provider: row.provider.as_deref().map(Arc::from),
        account: Mutex::new(Account {
            spend: row.current_spend,
            budget_id: Some(row.budget_id.as_str().into()),
            started_us: micros(row.period_start),
            next_reset_us: micros(row.period_end),
            since_us: micros(row.spend_since),
            ..Account::default()
        }),
    }
}

/// All ceilings, by their id and by the key they are over.
#[derive(Debug, Default)]
pub(super) struct Ceilings {
    by_id: HashMap<Arc<str>, Arc<Ceiling>>,
    /// Those for one provider first.
    by_key: HashMap<Arc<str>, Arc<[Arc<Ceiling>]>>,
}

impl Ceilings {
    /// The ceilings over a key that a call to one of these upstreams counts against.
    pub(super) fn of_key(&self, key_id: &Arc<str>, attempts: &[Attempt]) -> Vec<Hold> {
        let by_key = self.by_key.pin();
        let Some(ceilings) = by_key.get(key_id) else { return Vec::new() };
        let applies = |ceiling: &&Arc<Ceiling>| match &ceiling.provider {
            None => true,
            Some(only) => attempts.iter().any(|attempt| *attempt.upstream.instance == **only),
        };
        let hold = |ceiling: &Arc<Ceiling>| Hold {
            scope: Scope::Ceiling(ceiling.id.clone()),
            provider: ceiling.provider.clone(),
            leased: false,
        };
        ceilings.iter().filter(applies).map(hold).collect()
    }

    pub(super) fn with<T>(&self, id: &str, work: impl FnOnce(&mut Account) -> T) -> Option<T> {
        self.by_id.pin().get(id).map(|ceiling| work(&mut ceiling.account.lock()))
    }

    pub(super) fn each(&self, mut work: impl FnMut(&Arc<str>, &mut Account)) {
        for (id, ceiling) in &self.by_id.pin() {
            work(id, &mut ceiling.account.lock());
        }
    }

    pub(super) fn scopes_where(&self, is_meant: impl Fn(&Account) -> bool) -> Vec<Scope> {
        let by_id = self.by_id.pin();
        let meant = by_id.values().filter(|ceiling| is_meant(&ceiling.account.lock()));
        meant.map(|ceiling| Scope::Ceiling(ceiling.id.clone())).collect()
    }

    pub(super) fn total_held(&self) -> MicroUsd {
        self.by_id.pin().values().map(|ceiling| ceiling.account.lock().held).sum()
    }

    fn index(&self, key_id: &Arc<str>) {
        let by_id = self.by_id.pin();
        let mut over: Vec<Arc<Ceiling>> =
            by_id.values().filter(|ceiling| ceiling.key_id == *key_id).cloned().collect();
        over.sort_by(|a, b| a.rank().cmp(&b.rank()));
        if over.is_empty() {
            self.by_key.pin().remove(key_id);
        } else {
            self.by_key.pin().insert(key_id.clone(), over.into());
        }
    }
}

impl Ledger {
    /// Takes over a ceiling, new or changed. Of one that is known, spend and holds stay: the store is behind. Says
    /// whether its lease must go back: the budget is another one.
    pub fn put_ceiling(&self, row: &CeilingRow) -> bool {
        let known = self.ceilings.by_id.pin().get(row.id.as_str()).cloned();
        if let Some(ceiling) = known {
            let mut account = ceiling.account.lock();
            account.started_us = micros(row.period_start);
            account.next_reset_us = micros(row.period_end);
            account.since_us = micros(row.spend_since);
            let before = account.budget_id.replace(row.budget_id.as_str().into());
            return before.as_deref() != Some(row.budget_id.as_str());
        }
        let ceiling = Arc::new(ceiling(row));
        let key_id = ceiling.key_id.clone();
        self.ceilings.by_id.pin().insert(ceiling.id.clone(), ceiling);
        self.ceilings.index(&key_id);
        false
    }

    /// Takes over all ceilings at start.
    pub fn put_ceilings(&self, rows: &[CeilingRow]) {
        let by_id = self.ceilings.by_id.pin();
        let mut sorted: Vec<Arc<Ceiling>> = rows.iter().map(|row| Arc::new(ceiling(row))).collect();
        sorted.sort_by(|a, b| (&a.key_id, a.rank()).cmp(&(&b.key_id, b.rank())));
        for over in sorted.chunk_by(|a, b| a.key_id == b.key_id) {
            self.ceilings.by_key.pin().insert(over[0].key_id.clone(), over.into());
        }
        for ceiling in sorted {
            by_id.insert(ceiling.id.clone(), ceiling);
        }
    }

    /// Forgets the ceilings that are not among these.
    pub(super) fn keep_ceilings(&self, rows: &[CeilingRow]) {
        let kept: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        let by_id = self.ceilings.by_id.pin();
        let gone: Vec<Arc<str>> =
            by_id.keys().filter(|id| !kept.contains(&***id)).cloned().collect();
        gone.iter().for_each(|id| self.remove_ceiling(id));
    }

    /// Forgets a ceiling; what is held under it is held no more.
    pub fn remove_ceiling(&self, id: &str) {
        let removed = self.ceilings.by_id.pin().remove(id).cloned();
        if let Some(ceiling) = removed {
            self.ceilings.index(&ceiling.key_id);
        }
    }

    /// Forgets the ceilings over a key that is gone.
    pub fn remove_ceilings_of(&self, key_id: &str) {
        let over = self.ceilings.by_key.pin().get(key_id).cloned();
        for ceiling in over.iter().flat_map(|ceilings| ceilings.iter()) {
            self.remove_ceiling(&ceiling.id);
        }
    }

    /// A ceiling's counters as they are now.
    pub fn ceiling(&self, id: &str) -> Option<Counters> {
        self.ceilings.with(id, |account| counters(account))
    }
}
