//! PostgreSQL behind a pool of connections.

mod adopt;
mod schema;
mod codec;
mod tls;
mod keys;
mod users;
mod budgets;
mod ceilings;
mod leases;
mod rates;
mod changes;
mod shared;
mod prices;
mod aliases;
mod audit;
mod files;
mod batch_holds;
mod batches;
mod settings;
mod apply;
mod usage;
mod rollups;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use jiff::Timestamp;
use otari_filters::settle::Entry;
use tokio::time::timeout;
use tokio_postgres::IsolationLevel;

use self::audit::Audit;
use super::adopt::Upgrade;
use super::analytics::{Condensed, Report, Reported};
use super::migrations;
use super::{
    AliasRow, Applied, Author, BudgetChange, BudgetRow, BudgetTotals, CeilingChange, CeilingFilter,
    CeilingRow, Everything, KeyChange, KeyRow, Page, PriceRow, ResetRow, SettingRow, Shared, Store,
    StoreError, UsageFilter, UsageRow, UserChange, UserRow,
};
use crate::config::{PostgresTls, Secret};

/// To get a connection, TLS and password included; and to see that one from the pool still lives.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one call. Far above anything we ask; it is there for a server that accepts and never answers.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle time after which the kernel asks whether the server is still there; clouds forget flows after minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// The advisory lock of whoever migrates. Any number does, if it never changes: `otari` in ASCII.
const MIGRATION_LOCK: i64 = 0x6f_74_61_72_69;

/// A pool of connections to one PostgreSQL database.
#[derive(Clone)]
pub struct Postgres {
    label: String,
    pool: Pool,
    /// For the connection that listens: it is none of the pool's.
    listener: tokio_postgres::Config,
    tls: tokio_postgres_rustls::MakeRustlsConnect,
    /// Who this gateway is to the others on the database, once it has joined.
    gateway: Arc<OnceLock<String>>,
    /// How far the changes of others have been read.
    cursor: Arc<tokio::sync::Mutex<changes::Cursor>>,
    /// Whose changes are made through this one; `None`: they are not noted.
    author: Option<Arc<Author>>,
}

/// Makes a change and notes it, in one transaction.
macro_rules! audited {
    ($self:ident, $change:ident($($value:expr),*)) => {
        within(async {
            let mut db = $self.pool.get().await?;
            let audit = Audit::begin(&mut db, $self.author.as_deref()).await?;
            let answer = audit.$change($($value),*).await?;
            audit.commit().await?;
            Ok(answer)
        })
        .await
    };
}

impl Postgres {
    /// This gateway's id; empty before it has joined.
    fn gateway(&self) -> &str {
        self.gateway.get().map_or("", String::as_str)
    }
}

/// Connects once, to say early what is wrong. The parameters are the fields of `Database::Postgres`.
///
/// # Errors
///
/// `Unavailable`, after 5 s at most, when the server, its TLS or the login does not work; `Refused` when `url` is no
/// PostgreSQL URL.
pub async fn open(
    url: &Secret,
    label: &str,
    tls: PostgresTls,
    root_cert: Option<&Path>,
    max_connections: usize,
    pool_timeout: Duration,
) -> Result<Postgres, StoreError> {
    // The parser's message may quote a piece of a password that holds an unescaped `?` or `@`.
    let mut config: tokio_postgres::Config = url.expose().parse().map_err(|_| {
        StoreError::Refused { message: "database_url is not a valid PostgreSQL URL".into() }
    })?;
    config.ssl_mode(tls::mode(tls)).connect_timeout(CONNECT_TIMEOUT).keepalives_idle(KEEPALIVE);
    if config.get_application_name().is_none() {
        config.application_name("otari");
    }
    let connector = tls::connector(tls, root_cert)?;
    // Verified: a connection that a failover left dead is noticed before a call is lost on it. The extra round trip is
    // not on the path of any request.
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Verified };
    let listener = config.clone();
    let pool = Pool::builder(Manager::from_config(config, connector.clone(), manager))
        .max_size(max_connections.max(1))
        .wait_timeout(Some(pool_timeout))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(CONNECT_TIMEOUT))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::Unavailable { message: error.to_string() })?;
    drop(pool.get().await?);
    Ok(Postgres {
        label: format!("postgresql {label}"),
        pool,
        listener,
        tls: connector,
        gateway: Arc::default(),
        cursor: Arc::default(),
        author: None,
    })
}

/// `call`, or `Unavailable` when it takes too long.
async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable { message: "the server did not answer in time".into() })
    })
}

#[async_trait]
impl Store for Postgres {
    fn label(&self) -> &str {
        &self.label
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let ping = async { Ok(self.pool.get().await?.batch_execute("-- ping\nSELECT 1").await?) };
        within(ping).await
    }

    async fn upgrade(&self) -> Result<Upgrade, StoreError> {
        self.alone(false).await
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }

    async fn schema_check(&self) -> Result<(), StoreError> {
        let check = async {
            let db = self.pool.get().await?;
            schema::found(&db).await?.servable(migrations::POSTGRES)
        };
        within(check).await
    }

    async fn everything(&self) -> Result<Everything, StoreError> {
        let read = async {
            let mut db = self.pool.get().await?;
            // One snapshot for all tables.
            let transaction = db
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            let everything = Everything {
                keys: keys::key_all(&transaction).await?,
                users: users::user_all(&transaction).await?,
                budgets: budgets::budget_all(&transaction).await?,
                prices: prices::price_all(&transaction).await?,
                ceilings: ceilings::ceiling_all(&transaction).await?,
                aliases: aliases::alias_all(&transaction).await?,
                settings: settings::setting_all(&transaction).await?,
            };
            transaction.commit().await?;
            Ok(everything)
        };
        within(read).await
    }

    async fn key_create(&self, key: &KeyRow, owner: Option<&UserRow>) -> Result<(), StoreError> {
        audited!(self, key_create(key, owner))
    }

    async fn key_list(&self, page: Page) -> Result<Vec<KeyRow>, StoreError> {
        within(async { keys::key_list(&self.pool.get().await?, page).await }).await
    }

    async fn key_get(&self, id: &str) -> Result<Option<KeyRow>, StoreError> {
        within(async { keys::key_get(&self.pool.get().await?, id).await }).await
    }

    async fn key_update(&self, id: &str, change: &KeyChange) -> Result<Option<KeyRow>, StoreError> {
        audited!(self, key_update(id, change))
    }

    async fn key_rotate(
        &self,
        id: &str,
        key_hash: &str,
        key_prefix: &str,
    ) -> Result<Option<KeyRow>, StoreError> {
        audited!(self, key_rotate(id, key_hash, key_prefix))
    }

    async fn key_delete(&self, id: &str) -> Result<bool, StoreError> {
        audited!(self, key_delete(id))
    }

    async fn key_touch(&self, used: &[(String, Timestamp)]) -> Result<(), StoreError> {
        within(async { keys::key_touch(&self.pool.get().await?, used).await }).await
    }

    async fn user_create(&self, user: &UserRow) -> Result<UserRow, StoreError> {
        audited!(self, user_create(user))
    }

    async fn user_list(&self, page: Page) -> Result<Vec<UserRow>, StoreError> {
        within(async { users::user_list(&self.pool.get().await?, page).await }).await
    }

    async fn user_get(&self, user_id: &str) -> Result<Option<UserRow>, StoreError> {
        within(async { users::user_get(&self.pool.get().await?, user_id).await }).await
    }

    async fn user_find(&self, user_id: &str) -> Result<Option<UserRow>, StoreError> {
        within(async { users::user_find(&self.pool.get().await?, user_id).await }).await
    }

    async fn user_update(
        &self,
        user_id: &str,
        change: &UserChange,
    ) -> Result<Option<UserRow>, StoreError> {
        audited!(self, user_update(user_id, change))
    }

    async fn user_delete(&self, user_id: &str, at: Timestamp) -> Result<bool, StoreError> {
        audited!(self, user_delete(user_id, at))
    }

    async fn budget_create(&self, budget: &BudgetRow) -> Result<(), StoreError> {
        audited!(self, budget_create(budget))
    }

    async fn budget_list(&self, page: Page) -> Result<Vec<BudgetRow>, StoreError> {
        within(async { budgets::budget_list(&self.pool.get().await?, page).await }).await
    }

    async fn budget_get(&self, budget_id: &str) -> Result<Option<BudgetRow>, StoreError> {
        within(async { budgets::budget_get(&self.pool.get().await?, budget_id).await }).await
    }

    async fn budget_update(
        &self,
        budget_id: &str,
        change: &BudgetChange,
    ) -> Result<Option<BudgetRow>, StoreError> {
        audited!(self, budget_update(budget_id, change))
    }

    async fn budget_delete(&self, budget_id: &str, at: Timestamp) -> Result<bool, StoreError> {
        audited!(self, budget_delete(budget_id, at))
    }

    async fn budget_totals(&self, ids: &[String]) -> Result<Vec<BudgetTotals>, StoreError> {
        within(async { budgets::budget_totals(&self.pool.get().await?, self.gateway(), ids).await })
            .await
    }

    async fn budget_resets(&self, id: &str, page: Page) -> Result<Vec<ResetRow>, StoreError> {
        within(async { budgets::budget_resets(&self.pool.get().await?, id, page).await }).await
    }

    async fn ceiling_create(&self, ceiling: &CeilingRow) -> Result<(), StoreError> {
        audited!(self, ceiling_create(ceiling))
    }

    async fn ceiling_list(
        &self,
        filter: &CeilingFilter,
        page: Page,
    ) -> Result<Vec<CeilingRow>, StoreError> {
        within(async { ceilings::ceiling_list(&self.pool.get().await?, filter, page).await }).await
    }

    async fn ceiling_get(&self, id: &str) -> Result<Option<CeilingRow>, StoreError> {
        within(async { ceilings::ceiling_get(&self.pool.get().await?, id).await }).await
    }

    async fn ceiling_update(
        &self,
        id: &str,
        change: &CeilingChange,
    ) -> Result<Option<CeilingRow>, StoreError> {
        audited!(self, ceiling_update(id, change))
    }

    async fn ceiling_delete(&self, id: &str) -> Result<bool, StoreError> {
        audited!(self, ceiling_delete(id))
    }

    async fn price_put(&self, price: &PriceRow) -> Result<PriceRow, StoreError> {
        audited!(self, price_put(price))
    }

    async fn price_list(&self, page: Page) -> Result<Vec<PriceRow>, StoreError> {
        within(async { prices::price_list(&self.pool.get().await?, page).await }).await
    }

    async fn price_get(
        &self,
        model_key: &str,
        as_of: Timestamp,
    ) -> Result<Option<PriceRow>, StoreError> {
        within(async { prices::price_get(&self.pool.get().await?, model_key, as_of).await }).await
    }

    async fn price_history(&self, model_key: &str) -> Result<Vec<PriceRow>, StoreError> {
        within(async { prices::price_history(&self.pool.get().await?, model_key).await }).await
    }

    async fn price_delete(
        &self,
        model_key: &str,
        effective_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        audited!(self, price_delete(model_key, effective_at))
    }

    async fn alias_all(&self) -> Result<Vec<AliasRow>, StoreError> {
        within(async { aliases::alias_all(&self.pool.get().await?).await }).await
    }

    async fn alias_put(&self, alias: &AliasRow) -> Result<AliasRow, StoreError> {
        audited!(self, alias_put(alias))
    }

    async fn alias_delete(&self, name: &str, user_id: Option<&str>) -> Result<bool, StoreError> {
        audited!(self, alias_delete(name, user_id))
    }

    async fn setting_all(&self) -> Result<Vec<SettingRow>, StoreError> {
        within(async { settings::setting_all(&self.pool.get().await?).await }).await
    }

    async fn setting_put(
        &self,
        changes: &[(String, Option<String>)],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        audited!(self, setting_put(changes, at))
    }

    async fn setting_add(&self, setting: &SettingRow) -> Result<bool, StoreError> {
        within(async { settings::setting_add(&self.pool.get().await?, setting).await }).await
    }

    async fn apply_all(&self, entries: Arc<[Entry]>) -> Result<Applied, StoreError> {
        let apply = async {
            let mut db = self.pool.get().await?;
            let transaction = db.transaction().await?;
            let applied = apply::apply(&transaction, self.gateway(), &entries).await?;
            transaction.commit().await?;
            Ok(applied)
        };
        within(apply).await
    }

    async fn usage_list(
        &self,
        filter: &UsageFilter,
        page: Page,
    ) -> Result<Vec<UsageRow>, StoreError> {
        within(async { usage::usage_list(&mut *self.pool.get().await?, filter, page).await }).await
    }

    async fn usage_count(&self, filter: &UsageFilter) -> Result<i64, StoreError> {
        within(async { usage::usage_count(&mut *self.pool.get().await?, filter).await }).await
    }

    async fn usage_report(
        &self,
        filter: &UsageFilter,
        report: &Report,
    ) -> Result<Reported, StoreError> {
        within(async { usage::usage_report(&mut *self.pool.get().await?, filter, report).await })
            .await
    }

    async fn usage_condense(&self, closed: Timestamp) -> Result<Condensed, StoreError> {
        rollups::usage_condense(&mut *self.pool.get().await?, closed.into()).await
    }

    async fn usage_expire(
        &self,
        before: Timestamp,
        at_most: i64,
    ) -> Result<Option<u64>, StoreError> {
        let expire = async {
            rollups::usage_expire(&mut *self.pool.get().await?, before.into(), at_most).await
        };
        within(expire).await
    }
}
