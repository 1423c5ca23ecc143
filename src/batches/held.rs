//! What a batch that is passed on holds of budgets: taken before its provider is asked, kept by the database from then on,
//! given back when it is charged, or when it is known that it never will be.

use std::sync::Arc;
use std::time::Duration;

use otari_filters::control::{Attempt, ControlPlane as _, Reservation};
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};

use crate::app::Standalone;
use crate::control::local::Local;
use crate::store::{BatchHold, BatchRow, StoreError};

/// Pauses between tries to write a batch down that runs already.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

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

    /// Has the database keep a batch that runs at its provider, and what it holds.
    ///
    /// # Errors
    /// Nothing is kept. When the database has not said so, although it was asked again, it may be kept all the same where
    /// others share it: then what is left of a lease here does not count on the hold any more. Rather too little is left
    /// until the next start than too much is spent.
    pub(super) async fn keep(mut self, app: &Standalone, row: &BatchRow) -> Result<(), Rejection> {
        let ledger = &self.local.ledger;
        let _keeping = ledger.keeping().await;
        let held = self.reservation.as_ref();
        let holds = held.map(|reservation| ledger.to_keep(reservation)).unwrap_or_default();
        let written = match write(app, row, &holds).await {
            Err(StoreError::Unavailable { .. }) if ledger.is_shared() => {
                ledger.kept(&holds);
                self.reservation = None;
                return Err(unavailable());
            }
            written => written?,
        };
        if !written {
            return Err(unavailable());
        }
        ledger.kept(&holds);
        self.reservation = None;
        Ok(())
    }
}

/// As the store does; asks again while it does not answer. A batch that is there after the first try is the one it wrote.
async fn write(app: &Standalone, row: &BatchRow, holds: &[BatchHold]) -> Result<bool, StoreError> {
    let mut answer = app.store.batch_create(row, &[], holds).await;
    for pause in PAUSES {
        if !matches!(answer, Err(StoreError::Unavailable { .. })) {
            break;
        }
        tokio::time::sleep(pause).await;
        answer = match app.store.batch_create(row, &[], holds).await {
            Err(StoreError::Conflict(_)) => Ok(true),
            again => again,
        };
    }
    answer
}

fn unavailable() -> Rejection {
    Rejection::new(
        Code::Unavailable,
        "The batch could not be kept: the database does not answer. Try again",
    )
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
