//! The second face of the store: what gateways on one database need of it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use otari_filters::control::Scope;
use otari_filters::gcra::Granted;
use otari_filters::money::MicroUsd;
use tokio::sync::mpsc;

use super::{Postgres, changes, leases, rates, within};
use crate::store::{
    Beat, Change, Notice, RateAsk, RatePlaces, Shared, Store, StoreError, Take, Taken,
};

#[async_trait]
impl Shared for Postgres {
    fn heir_of(&self, id: &str) -> Arc<dyn Store> {
        let gateway = Arc::new(OnceLock::from(id.to_owned()));
        Arc::new(Self { gateway, cursor: Arc::default(), ..self.clone() })
    }

    async fn join(&self, id: &str) -> Result<(), StoreError> {
        let id = self.gateway.get_or_init(|| id.to_owned());
        within(async {
            let db = self.pool.get().await?;
            leases::join(&db, id).await?;
            // The count of changes starts before anything is read, so that nothing falls in between.
            changes::changes(&db, &mut *self.cursor.lock().await).await.map(drop)
        })
        .await
    }

    async fn forget_leases(&self) -> Result<(), StoreError> {
        within(async { leases::forget_leases(&self.pool.get().await?, self.gateway()).await }).await
    }

    async fn beat(&self, ttl_s: i64) -> Result<Beat, StoreError> {
        within(async {
            let db = self.pool.get().await?;
            changes::forget(&db).await?;
            leases::beat(&db, self.gateway(), ttl_s).await
        })
        .await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        within(async { leases::leave(&self.pool.get().await?, self.gateway()).await }).await
    }

    async fn take(&self, take: &Take) -> Result<Taken, StoreError> {
        within(async {
            let mut db = self.pool.get().await?;
            let transaction = db.transaction().await?;
            let taken = leases::take(&transaction, self.gateway(), take).await?;
            transaction.commit().await?;
            Ok(taken)
        })
        .await
    }

    async fn give(&self, scope: &Scope, serial: i64, amount: MicroUsd) -> Result<(), StoreError> {
        within(async {
            leases::give(&self.pool.get().await?, self.gateway(), scope, serial, amount).await
        })
        .await
    }

    async fn recall(&self, scope: &Scope) -> Result<(), StoreError> {
        within(async { leases::recall(&self.pool.get().await?, self.gateway(), scope).await }).await
    }

    async fn publish(&self, held: &[(Scope, MicroUsd)]) -> Result<(), StoreError> {
        within(async { leases::publish(&self.pool.get().await?, self.gateway(), held).await }).await
    }

    async fn held_elsewhere(&self, scope: &Scope) -> Result<MicroUsd, StoreError> {
        within(async {
            leases::held_elsewhere(&self.pool.get().await?, self.gateway(), scope).await
        })
        .await
    }

    async fn over_cap(&self) -> Result<i64, StoreError> {
        within(async { leases::over_cap(&self.pool.get().await?).await }).await
    }

    async fn rates(&self, asks: &[RateAsk]) -> Result<Vec<Granted>, StoreError> {
        within(async {
            let mut db = self.pool.get().await?;
            let transaction = db.transaction().await?;
            let granted = rates::rates(&transaction, asks).await?;
            transaction.commit().await?;
            Ok(granted)
        })
        .await
    }

    async fn rate_places(
        &self,
        own: &[RatePlaces],
    ) -> Result<HashMap<String, (u32, u32)>, StoreError> {
        within(async { rates::places(&self.pool.get().await?, self.gateway(), own).await }).await
    }

    async fn rate_gateways(&self, forgets: bool) -> Result<u32, StoreError> {
        within(async { rates::gateways(&self.pool.get().await?, forgets).await }).await
    }

    async fn changes(&self) -> Result<Option<Vec<Change>>, StoreError> {
        within(async {
            let db = self.pool.get().await?;
            changes::changes(&db, &mut *self.cursor.lock().await).await
        })
        .await
    }

    async fn listen(&self, notices: mpsc::Sender<Notice>) -> Result<(), StoreError> {
        changes::listen(&self.listener, self.tls.clone(), self.gateway(), notices).await
    }
}
