//! Where several gateways share a database: leases, and what the others changed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;

use super::account::Account;
use super::{Lease, Ledger};
use crate::store::{BatchHold, Everything, UserRow, Window};

/// What batches hold in each scope.
fn by_scope(kept: &[BatchHold]) -> HashMap<Scope, MicroUsd> {
    let mut sums = HashMap::new();
    for hold in kept {
        *sums.entry(hold.scope.clone()).or_insert(MicroUsd::ZERO) += hold.amount;
    }
    sums
}

impl Ledger {
    /// Every scope under this budget that this gateway holds a lease for.
    pub fn leased_under(&self, budget_id: &str) -> Vec<Scope> {
        let is_leased = |account: &Account| {
            account.lease != Lease::default() && account.budget_id.as_deref() == Some(budget_id)
        };
        let users = self.users.pin();
        let users = users.iter().filter(|(_, user)| is_leased(&user.lock().account));
        let users = users.map(|(id, _)| Scope::User(id.clone()));
        users.chain(self.ceilings.scopes_where(is_leased)).collect()
    }

    /// Takes over what another gateway, or a person, made of a user. Says whether the lease must go back: the budget is
    /// another one.
    pub fn follow_user(&self, row: &UserRow) -> bool {
        let before = self.users.pin().get(row.user_id.as_str()).map(|user| {
            let account = &user.lock().account;
            (account.budget_id.clone(), account.spend)
        });
        self.put_user(row);
        let Some((budget, spend)) = before else { return false };
        if !self.is_shared() {
            self.with(&Scope::User(row.user_id.as_str().into()), |account| account.spend = spend);
        }
        budget.as_deref() != row.budget_id.as_deref()
    }

    /// Takes over everything as the database has it, what is gone from it included. Returns the scopes whose lease must
    /// go back.
    pub fn follow(&self, everything: &Everything) -> Vec<Scope> {
        let budgets: HashSet<&str> =
            everything.budgets.iter().map(|row| row.budget_id.as_str()).collect();
        self.budgets.pin().retain(|id, _| budgets.contains(&**id));
        everything.budgets.iter().for_each(|row| self.put_budget(row));
        let others = everything.users.iter().filter(|row| self.follow_user(row));
        let mut scopes: Vec<Scope> =
            others.map(|row| Scope::User(row.user_id.as_str().into())).collect();
        self.keep_ceilings(&everything.ceilings);
        let others = everything.ceilings.iter().filter(|row| self.put_ceiling(row));
        scopes.extend(others.map(|row| Scope::Ceiling(row.id.as_str().into())));
        // A cap may have been lowered: every lease is asked for again under the caps of now.
        scopes.extend(self.leased());
        scopes
    }

    /// Another process is about to spend from the same budgets: what is held by the caps becomes leases, as large as what
    /// is held, and everything else is the database's to decide from now on. `kept`: what it keeps for batches, which it
    /// counts itself. Nobody may ask it for more before it knows of what is returned, and of every record up to now.
    pub fn share(&self, kept: &[BatchHold]) -> Vec<(Scope, MicroUsd)> {
        self.is_converted.store(true, Ordering::Release);
        self.shares.store(true, Ordering::Release);
        let (kept, budgets) = (by_scope(kept), self.budgets.pin());
        let mut held = Vec::new();
        self.each(|scope, account| {
            account.held = (account.held - kept.get(&scope).copied().unwrap_or_default()).or_zero();
            let terms = account.budget_id.as_ref().and_then(|id| budgets.get(id));
            if account.held > MicroUsd::ZERO && terms.is_some_and(|terms| terms.max.is_some()) {
                account.lease = Lease { granted: account.held, used: MicroUsd::ZERO };
                account.is_converted = true;
                if !std::mem::replace(&mut account.is_noted, true) {
                    self.noted.lock().push(scope.clone());
                }
                held.push((scope, account.held));
            }
        });
        held
    }

    /// Takes [`Ledger::share`] back: nothing was asked of the database in between.
    pub fn unshare(&self, kept: &[BatchHold]) {
        let kept = by_scope(kept);
        self.each(|scope, account| {
            account.held += kept.get(&scope).copied().unwrap_or_default();
            account.lease = Lease::default();
            account.is_converted = false;
        });
        self.shares.store(false, Ordering::Release);
        self.is_converted.store(false, Ordering::Release);
    }

    fn each(&self, mut work: impl FnMut(Scope, &mut Account)) {
        for (id, user) in &self.users.pin() {
            work(Scope::User(id.clone()), &mut user.lock().account);
        }
        self.ceilings.each(|id, account| work(Scope::Ceiling(id.clone()), account));
    }

    /// Whoever holds it decides alone whether the database is shared.
    pub async fn sharing(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.keeping.write().await
    }

    /// Adds to a lease what the database granted, and takes over the period it knows.
    pub fn grant(&self, scope: &Scope, granted: MicroUsd, window: Window) {
        self.with(scope, |account| {
            account.lease.granted += granted;
            account.started_us = window.started_us;
            account.next_reset_us = window.next_reset_us;
            account.since_us = window.since_us;
        });
    }

    /// Takes what is left out of a lease, to be given back; nothing is held by it any more.
    pub fn take_room(&self, scope: &Scope) -> MicroUsd {
        self.with(scope, Account::take_room).unwrap_or_default()
    }

    /// Every lease is void: the database has given them to others.
    pub fn void_leases(&self) {
        for user in self.users.pin().values() {
            user.lock().account.lease = Lease::default();
        }
        self.ceilings.each(|_, account| account.lease = Lease::default());
    }

    /// What is held now in every scope that held something out of its lease since the last call.
    pub fn moved_holds(&self) -> Vec<(Scope, MicroUsd)> {
        let noted = std::mem::take(&mut *self.noted.lock());
        let mut holds = Vec::with_capacity(noted.len());
        for scope in noted {
            let held = self.with(&scope, |account| {
                account.is_noted = account.held > MicroUsd::ZERO;
                account.held
            });
            let Some(held) = held else { continue };
            if held > MicroUsd::ZERO {
                // Until it is nothing again, and that is known too.
                self.noted.lock().push(scope.clone());
            }
            holds.push((scope, held));
        }
        holds
    }

    /// Every scope with a lease.
    fn leased(&self) -> Vec<Scope> {
        let is_leased = |account: &Account| account.lease != Lease::default();
        let users = self.users.pin();
        let users = users.iter().filter(|(_, user)| is_leased(&user.lock().account));
        let users = users.map(|(id, _)| Scope::User(id.clone()));
        users.chain(self.ceilings.scopes_where(is_leased)).collect()
    }
}
