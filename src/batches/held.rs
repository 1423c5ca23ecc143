//! What a batch that is passed on holds of budgets: taken before its provider is asked, kept by the database from then on,
//! given back when it is charged, or when it is known that it never will be.

use std::sync::Arc;

use otari_filters::control::{Attempt, ControlPlane as _, Reservation};
use otari_filters::money::MicroUsd;
use otari_filters::rejection::Rejection;

use crate::app::Standalone;
use crate::control::local::Local;
use crate::store::{BatchHold, BatchRow, StoreError};

/// The hold of a batch that is being made. Given back when it is dropped, unless the database keeps it.
pub struct Held {
    local: Arc<Local>,
    reservation: Option<Reservation>,
}

impl Held {
    /// Takes over a hold.
    pub fn new(local: Arc<Local>, reservation: Reservation) -> Self {
        Self { local, reservation: Some(reservation) }
    }

    /// Lets it grow to what the batch may cost.
    ///
    /// # Errors
    /// `budget_exceeded`, `unavailable`: the batch must not be made.
    pub(super) async fn cover(
        &mut self,
        attempt: &Attempt,
        estimate: MicroUsd,
    ) -> Result<(), Rejection> {
        match &mut self.reservation {
            Some(reservation) => self.local.cover(reservation, attempt, estimate).await,
            None => Ok(()),
        }
    }

    /// What the database is to keep.
    pub(super) fn to_keep(&self) -> Vec<BatchHold> {
        let held = self.reservation.as_ref();
        held.map(|reservation| self.local.ledger.to_keep(reservation)).unwrap_or_default()
    }

    /// The database keeps `holds` now.
    pub(super) fn kept(mut self, holds: &[BatchHold]) {
        self.local.ledger.kept(holds);
        self.reservation = None;
    }

    /// The database did not say that it keeps `holds`. One that others share may do so all the same: then what is left of
    /// a lease here must not count on them. Rather too little is left until the next start than too much is spent.
    pub(super) fn not_kept(self, holds: &[BatchHold], why: &StoreError) {
        let is_unsure = matches!(why, StoreError::Unavailable { .. });
        if is_unsure && self.local.ledger.is_shared() {
            self.kept(holds);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.local.release(reservation);
        }
    }
}

/// Gives back what a batch holds that will not be charged.
pub(super) async fn release(app: &Standalone, row: &BatchRow) -> Result<(), Rejection> {
    let holds = app.store.batch_release(&row.provider, &row.id).await?;
    app.local.ledger.let_go(&holds);
    Ok(())
}
