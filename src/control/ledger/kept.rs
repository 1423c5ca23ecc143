//! Holds that outlive the request that took them: those of batches that were passed on. They are in the database. Where it
//! is this process's alone they are counted here too; where gateways share it, it counts them itself.

use otari_filters::control::Reservation;
use otari_filters::money::MicroUsd;

use super::Ledger;
use crate::store::BatchHold;

impl Ledger {
    /// The right to hand what a batch holds over to the database: nobody begins to share it in between.
    pub async fn keeping(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.keeping.read().await
    }

    /// What a reservation holds, as the database is to keep it.
    pub fn to_keep(&self, reservation: &Reservation) -> Vec<BatchHold> {
        if reservation.held <= MicroUsd::ZERO {
            return Vec::new();
        }
        let keep = |hold: &otari_filters::control::Hold| BatchHold {
            scope: hold.scope.clone(),
            amount: reservation.held,
            leased: self.pays(hold),
        };
        reservation.holds.iter().map(keep).collect()
    }

    /// The database keeps them now.
    pub fn kept(&self, holds: &[BatchHold]) {
        if !self.is_shared() {
            return;
        }
        for hold in holds {
            self.with(&hold.scope, |account| {
                account.held = (account.held - hold.amount).or_zero();
                if hold.leased {
                    account.lease.granted = account.lease.granted - hold.amount;
                }
            });
        }
    }

    /// Takes over at start what the database has kept.
    pub fn restore(&self, holds: &[BatchHold]) {
        if self.is_shared() {
            return;
        }
        for hold in holds {
            self.with(&hold.scope, |account| account.held += hold.amount);
        }
    }

    /// The database keeps them no more.
    pub fn let_go(&self, holds: &[BatchHold]) {
        for hold in holds {
            self.with(&hold.scope, |account| match self.is_shared() {
                true if hold.leased => account.lease.granted += hold.amount,
                true => {}
                false => account.held = (account.held - hold.amount).or_zero(),
            });
        }
    }
}
