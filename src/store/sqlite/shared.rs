//! The second face of the store: what two processes on one file need of it, while one takes the place of the other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Sqlite, leases};
use crate::clock;
use crate::store::{Beat, Change, Notice, Shared, Store, StoreError, Take, Taken};

/// Between two looks for recalls while another process lives: whoever asks waits half a second at most.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// And while none does; soon enough for the first question of one that has just come.
const LOOK_ALONE: Duration = Duration::from_millis(200);

/// What this process is to others on the file.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// `None`: it has the file to itself.
    gateway: Mutex<Option<Arc<str>>>,
    /// How far changes have been seen.
    change: Mutex<Option<i64>>,
}

impl Sqlite {
    /// This process's id; `None`: it has the file to itself.
    pub(super) fn gateway(&self) -> Option<Arc<str>> {
        self.beside.gateway.lock().clone()
    }

    fn id(&self) -> Arc<str> {
        self.gateway().unwrap_or_else(|| "".into())
    }
}

#[async_trait]
impl Shared for Sqlite {
    fn heir_of(&self, id: &str) -> Arc<dyn Store> {
        let gateway = Mutex::new(Some(id.into()));
        Arc::new(Self {
            file: self.file.clone(),
            label: self.label.clone(),
            readers: self.readers.clone(),
            writer: self.writer.clone(),
            author: None,
            beside: Arc::new(Beside { gateway, change: Mutex::default() }),
        })
    }

    fn is_on_one_machine(&self) -> bool {
        true
    }

    async fn join(&self, id: &str) -> Result<(), StoreError> {
        let own = id.to_owned();
        self.write(move |db| leases::join(db, &own, clock::now_us())).await?;
        // The count of changes starts before anything is read, so that nothing falls in between.
        let change = self.read(|db| leases::last_change(db)).await?;
        *self.beside.change.lock() = Some(change);
        *self.beside.gateway.lock() = Some(id.into());
        Ok(())
    }

    async fn hold(&self, held: &[(Scope, MicroUsd)]) -> Result<(), StoreError> {
        let (id, held) = (self.id(), held.to_vec());
        self.write(move |db| leases::hold(db, &id, &held)).await
    }

    async fn forget_leases(&self) -> Result<(), StoreError> {
        let id = self.id();
        self.write(move |db| leases::forget_leases(db, &id)).await
    }

    async fn forget_all(&self) -> Result<(), StoreError> {
        self.write(|db| leases::forget_all(db)).await
    }

    async fn beat(&self, ttl_s: i64) -> Result<Beat, StoreError> {
        let id = self.id();
        self.write(move |db| leases::beat(db, &id, ttl_s, clock::now_us())).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let id = self.id();
        *self.beside.gateway.lock() = None;
        self.write(move |db| leases::leave(db, &id)).await
    }

    async fn take(&self, take: &Take) -> Result<Taken, StoreError> {
        let (id, take) = (self.id(), take.clone());
        self.write(move |db| leases::take(db, &id, &take, clock::now_us())).await
    }

    async fn give(&self, scope: &Scope, serial: i64, amount: MicroUsd) -> Result<(), StoreError> {
        let (id, scope) = (self.id(), scope.clone());
        let now_us = clock::now_us();
        self.write(move |db| leases::give(db, &id, (&scope, serial, amount), now_us)).await
    }

    async fn recall(&self, scope: &Scope) -> Result<(), StoreError> {
        let (id, scope) = (self.id(), scope.clone());
        self.write(move |db| leases::recall(db, &id, &scope, clock::now_us())).await
    }

    async fn publish(&self, held: &[(Scope, MicroUsd)]) -> Result<(), StoreError> {
        if held.is_empty() {
            return Ok(());
        }
        let (id, held) = (self.id(), held.to_vec());
        self.write(move |db| leases::publish(db, &id, &held)).await
    }

    async fn held_elsewhere(&self, scope: &Scope) -> Result<MicroUsd, StoreError> {
        let (id, scope) = (self.id(), scope.clone());
        self.read(move |db| leases::held_elsewhere(db, &id, &scope)).await
    }

    async fn over_cap(&self) -> Result<i64, StoreError> {
        self.read(|db| leases::over_cap(db)).await
    }

    /// Which rows were changed is not known here, only that some were.
    async fn changes(&self) -> Result<Option<Vec<Change>>, StoreError> {
        let now = self.read(|db| leases::last_change(db)).await?;
        let before = self.beside.change.lock().replace(now);
        Ok(before.is_none_or(|before| before == now).then(Vec::new))
    }

    async fn listen(&self, notices: mpsc::Sender<Notice>) -> Result<(), StoreError> {
        let id = self.id();
        let mut last = self.read(|db| leases::last_recall(db)).await?;
        loop {
            let own = id.clone();
            let look = move |db: &rusqlite::Transaction<'_>| {
                let others = leases::others(db, &own, clock::now_us())?;
                Ok((leases::recalled(db, &own, last)?, others))
            };
            let ((scopes, seen), others) = self.read(look).await?;
            last = seen;
            for scope in scopes {
                // A full queue loses it: whoever recalls asks again.
                let _ = notices.try_send(Notice::Recall(scope));
            }
            tokio::time::sleep(if others > 0 { LOOK_EVERY } else { LOOK_ALONE }).await;
        }
    }
}
