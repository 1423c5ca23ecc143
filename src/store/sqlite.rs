//! The store of a single process: one SQLite file, one thread that writes, two that read. Two processes have it while one
//! takes the place of the other.

mod actor;
mod adopt;
mod codec;
mod keys;
mod users;
mod budgets;
mod ceilings;
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
mod leases;
mod shared;
mod schema;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use otari_filters::settle::Entry;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use self::actor::Actor;
use self::audit::Audit;
pub use self::schema::rehearse;
use self::schema::{found, upgrade_file};
use self::shared::Beside;
use super::adopt::Upgrade;
use super::analytics::{Condensed, Report, Reported};
use super::migrations;
use super::{
    AliasRow, Applied, Author, BudgetChange, BudgetRow, BudgetTotals, CeilingChange, CeilingFilter,
    CeilingRow, Everything, KeyChange, KeyRow, Page, PriceRow, ResetRow, SettingRow, Shared, Store,
    StoreError, UsageFilter, UsageRow, UserChange, UserRow,
};

/// Threads that read beside the writer, so that a long usage query does not hold up a short one.
const READERS: usize = 2;
/// How long a statement waits for another process (a backup, `otari migrate`) that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages of the write-ahead log after which they are taken into the file: 16 MB instead of 4. A page that comes again and
/// again, as the last ones of an index do, is written to the file once for all of them, and less often a disk is waited for.
const CHECKPOINT_PAGES: u32 = 4000;
/// It grows beyond while somebody reads for long, and is cut to this when it begins anew.
const MAX_LOG_BYTES: u32 = 64 << 20;
/// Texts per connection; there are about thirty.
const STATEMENTS: usize = 64;

/// An open SQLite file.
pub struct Sqlite {
    file: Arc<Path>,
    label: Arc<str>,
    /// Dropped first: the writer closes last and folds the write-ahead log into the file.
    readers: Arc<Actor>,
    writer: Arc<Actor>,
    /// Whose changes are made through this one; `None`: they are not noted.
    author: Option<Arc<Author>>,
    /// What it is to another process on the file.
    beside: Arc<Beside>,
}

/// Opens the file at `path` and creates it when missing; the folder must exist. The schema is not looked at.
///
/// # Errors
///
/// `Unavailable` when the file cannot be opened or written.
pub async fn open(path: &Path) -> Result<Sqlite, StoreError> {
    let label = format!("sqlite {}", path.display());
    let file = path.to_owned();
    let writer = Actor::start("sqlite-writer", 1, move || open_writer(&file)).await?;
    let file = path.to_owned();
    let readers = Actor::start("sqlite-reader", READERS, move || open_reader(&file)).await?;
    let (readers, writer) = (Arc::new(readers), Arc::new(writer));
    let file = path.into();
    Ok(Sqlite { file, label: label.into(), readers, writer, author: None, beside: Arc::default() })
}

fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    // Whoever may log in to the machine need not read who calls what. SQLite gives its other files the same mode; what
    // is wrong with the path is said by the open below.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let message = format!(
            "cannot open {}: the folder {} does not exist",
            path.display(),
            folder.display()
        );
        return Err(StoreError::Unavailable { message });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    configure(path, flags, |connection| {
        // NORMAL: after a power cut the last transactions may be missing, never half there; the journal replays them.
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", MAX_LOG_BYTES)?;
        // Whoever is going to write says so at once: an upgrade half-way fails without waiting.
        connection.set_transaction_behavior(TransactionBehavior::Immediate);
        Ok(())
    })
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    // A question about all rows of a busy day may sort more than there is memory.
    configure(path, OpenFlags::SQLITE_OPEN_READ_ONLY, |connection| {
        connection.execute_batch("PRAGMA temp_store = FILE")
    })
}

fn configure(
    path: &Path,
    flags: OpenFlags,
    more: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> Result<Connection, StoreError> {
    let open = || {
        // NO_MUTEX: a connection never leaves its thread.
        let mut connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY")?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        more(&mut connection)?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| StoreError::Unavailable {
        message: format!("cannot open {}: {error}", path.display()),
    })
}

/// Whether triggers and foreign keys are looked after. They are for rows that go and for who writes by hand; of a row of
/// usage they would cost more than half of what the row itself costs. All statements are prepared anew where it
/// changes: so it stays as it is until other work wants it otherwise, and what is done ten times a second wants the same.
fn look_after(connection: &Connection, is_on: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, is_on)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, is_on)?;
    Ok(())
}

impl Sqlite {
    /// Runs `work` in a write transaction; an error takes everything back.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let run = move |connection: &mut Connection| {
            look_after(connection, true)?;
            let transaction = connection.transaction()?;
            let answer = work(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        };
        self.writer.run(run).await
    }

    /// As [`Self::write`], and what `work` changes is noted as the author's.
    async fn audited<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Audit<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let author = self.author.clone();
        self.write(move |db| work(&Audit { db, author: author.as_deref() })).await
    }

    /// Runs `work` in a read transaction: all of its statements see the same state.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.run(move |connection| work(&connection.transaction()?)).await
    }
}

#[async_trait]
impl Store for Sqlite {
    fn label(&self) -> &str {
        &self.label
    }

    fn shared(&self) -> Option<&dyn Shared> {
        self.gateway().is_some().then_some(self)
    }

    fn sharable(&self) -> Option<&dyn Shared> {
        Some(self)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // The writer, because a file that can only be read is not an answer; no write, because disks are slow.
        self.writer.run(|db| Ok(db.execute_batch("-- ping\nSELECT 1")?)).await
    }

    async fn upgrade(&self) -> Result<Upgrade, StoreError> {
        let run = |db: &mut Connection| {
            look_after(db, true)?;
            upgrade_file(db)
        };
        self.writer.run(run).await
    }

    async fn schema_check(&self) -> Result<(), StoreError> {
        self.read(|db| found(db)?.servable(migrations::SQLITE)).await
    }

    async fn everything(&self) -> Result<Everything, StoreError> {
        let run = |db: &Transaction<'_>| {
            Ok(Everything {
                keys: keys::key_all(db)?,
                users: users::user_all(db)?,
                budgets: budgets::budget_all(db)?,
                prices: prices::price_all(db)?,
                ceilings: ceilings::ceiling_all(db)?,
                aliases: aliases::alias_all(db)?,
                settings: settings::setting_all(db)?,
            })
        };
        self.read(run).await
    }

    async fn key_create(&self, key: &KeyRow, owner: Option<&UserRow>) -> Result<(), StoreError> {
        let (key, owner) = (key.clone(), owner.cloned());
        self.audited(move |audit| audit.key_create(&key, owner.as_ref())).await
    }

    async fn key_list(&self, page: Page) -> Result<Vec<KeyRow>, StoreError> {
        self.read(move |db| keys::key_list(db, page)).await
    }

    async fn key_get(&self, id: &str) -> Result<Option<KeyRow>, StoreError> {
        let id = id.to_owned();
        self.read(move |db| keys::key_get(db, &id)).await
    }

    async fn key_update(&self, id: &str, change: &KeyChange) -> Result<Option<KeyRow>, StoreError> {
        let (id, change) = (id.to_owned(), change.clone());
        self.audited(move |audit| audit.key_update(&id, &change)).await
    }

    async fn key_rotate(
        &self,
        id: &str,
        key_hash: &str,
        key_prefix: &str,
    ) -> Result<Option<KeyRow>, StoreError> {
        let (id, hash, prefix) = (id.to_owned(), key_hash.to_owned(), key_prefix.to_owned());
        self.audited(move |audit| audit.key_rotate(&id, &hash, &prefix)).await
    }

    async fn key_delete(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.audited(move |audit| audit.key_delete(&id)).await
    }

    async fn key_touch(&self, used: &[(String, Timestamp)]) -> Result<(), StoreError> {
        let used = used.to_vec();
        let run = move |db: &mut Connection| {
            look_after(db, false)?;
            let transaction = db.transaction()?;
            keys::key_touch(&transaction, &used)?;
            Ok(transaction.commit()?)
        };
        self.writer.run(run).await
    }

    async fn user_create(&self, user: &UserRow) -> Result<UserRow, StoreError> {
        let user = user.clone();
        self.audited(move |audit| audit.user_create(&user)).await
    }

    async fn user_list(&self, page: Page) -> Result<Vec<UserRow>, StoreError> {
        self.read(move |db| users::user_list(db, page)).await
    }

    async fn user_get(&self, user_id: &str) -> Result<Option<UserRow>, StoreError> {
        let user_id = user_id.to_owned();
        self.read(move |db| users::user_get(db, &user_id)).await
    }

    async fn user_find(&self, user_id: &str) -> Result<Option<UserRow>, StoreError> {
        let user_id = user_id.to_owned();
        self.read(move |db| users::user_find(db, &user_id)).await
    }

    async fn user_update(
        &self,
        user_id: &str,
        change: &UserChange,
    ) -> Result<Option<UserRow>, StoreError> {
        let (user_id, change) = (user_id.to_owned(), change.clone());
        self.audited(move |audit| audit.user_update(&user_id, &change)).await
    }

    async fn user_delete(&self, user_id: &str, at: Timestamp) -> Result<bool, StoreError> {
        let user_id = user_id.to_owned();
        self.audited(move |audit| audit.user_delete(&user_id, at)).await
    }

    async fn budget_create(&self, budget: &BudgetRow) -> Result<(), StoreError> {
        let budget = budget.clone();
        self.audited(move |audit| audit.budget_create(&budget)).await
    }

    async fn budget_list(&self, page: Page) -> Result<Vec<BudgetRow>, StoreError> {
        self.read(move |db| budgets::budget_list(db, page)).await
    }

    async fn budget_get(&self, budget_id: &str) -> Result<Option<BudgetRow>, StoreError> {
        let budget_id = budget_id.to_owned();
        self.read(move |db| budgets::budget_get(db, &budget_id)).await
    }

    async fn budget_update(
        &self,
        budget_id: &str,
        change: &BudgetChange,
    ) -> Result<Option<BudgetRow>, StoreError> {
        let (budget_id, change) = (budget_id.to_owned(), change.clone());
        self.audited(move |audit| audit.budget_update(&budget_id, &change)).await
    }

    async fn budget_delete(&self, budget_id: &str, at: Timestamp) -> Result<bool, StoreError> {
        let budget_id = budget_id.to_owned();
        self.audited(move |audit| audit.budget_delete(&budget_id, at)).await
    }

    async fn budget_totals(&self, ids: &[String]) -> Result<Vec<BudgetTotals>, StoreError> {
        let ids = ids.to_vec();
        let gateway = self.gateway();
        self.read(move |db| budgets::budget_totals(db, gateway.as_deref(), &ids)).await
    }

    async fn budget_resets(&self, id: &str, page: Page) -> Result<Vec<ResetRow>, StoreError> {
        let id = id.to_owned();
        self.read(move |db| budgets::budget_resets(db, &id, page)).await
    }

    async fn ceiling_create(&self, ceiling: &CeilingRow) -> Result<(), StoreError> {
        let ceiling = ceiling.clone();
        self.audited(move |audit| audit.ceiling_create(&ceiling)).await
    }

    async fn ceiling_list(
        &self,
        filter: &CeilingFilter,
        page: Page,
    ) -> Result<Vec<CeilingRow>, StoreError> {
        let filter = filter.clone();
        self.read(move |db| ceilings::ceiling_list(db, &filter, page)).await
    }

    async fn ceiling_get(&self, id: &str) -> Result<Option<CeilingRow>, StoreError> {
        let id = id.to_owned();
        self.read(move |db| ceilings::ceiling_get(db, &id)).await
    }

    async fn ceiling_update(
        &self,
        id: &str,
        change: &CeilingChange,
    ) -> Result<Option<CeilingRow>, StoreError> {
        let (id, change) = (id.to_owned(), change.clone());
        self.audited(move |audit| audit.ceiling_update(&id, &change)).await
    }

    async fn ceiling_delete(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.audited(move |audit| audit.ceiling_delete(&id)).await
    }

    async fn price_put(&self, price: &PriceRow) -> Result<PriceRow, StoreError> {
        let price = price.clone();
        self.audited(move |audit| audit.price_put(&price)).await
    }

    async fn price_list(&self, page: Page) -> Result<Vec<PriceRow>, StoreError> {
        self.read(move |db| prices::price_list(db, page)).await
    }

    async fn price_get(
        &self,
        model_key: &str,
        as_of: Timestamp,
    ) -> Result<Option<PriceRow>, StoreError> {
        let model_key = model_key.to_owned();
        self.read(move |db| prices::price_get(db, &model_key, as_of)).await
    }

    async fn price_history(&self, model_key: &str) -> Result<Vec<PriceRow>, StoreError> {
        let model_key = model_key.to_owned();
        self.read(move |db| prices::price_history(db, &model_key)).await
    }

    async fn price_delete(
        &self,
        model_key: &str,
        effective_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let model_key = model_key.to_owned();
        self.audited(move |audit| audit.price_delete(&model_key, effective_at)).await
    }

    async fn alias_all(&self) -> Result<Vec<AliasRow>, StoreError> {
        self.read(|db| aliases::alias_all(db)).await
    }

    async fn alias_put(&self, alias: &AliasRow) -> Result<AliasRow, StoreError> {
        let alias = alias.clone();
        self.audited(move |audit| audit.alias_put(&alias)).await
    }

    async fn alias_delete(&self, name: &str, user_id: Option<&str>) -> Result<bool, StoreError> {
        let (name, user_id) = (name.to_owned(), user_id.map(str::to_owned));
        self.audited(move |audit| audit.alias_delete(&name, user_id.as_deref())).await
    }

    async fn setting_all(&self) -> Result<Vec<SettingRow>, StoreError> {
        self.read(|db| settings::setting_all(db)).await
    }

    async fn setting_put(
        &self,
        changes: &[(String, Option<String>)],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let changes = changes.to_vec();
        self.audited(move |audit| audit.setting_put(&changes, at)).await
    }

    async fn setting_add(&self, setting: &SettingRow) -> Result<bool, StoreError> {
        let setting = setting.clone();
        self.write(move |db| settings::setting_add(db, &setting)).await
    }

    async fn apply_all(&self, entries: Arc<[Entry]>) -> Result<Applied, StoreError> {
        let gateway = self.gateway();
        let run = move |db: &mut Connection| {
            look_after(db, false)?;
            apply::apply(db, gateway.as_deref(), &entries)
        };
        self.writer.run(run).await
    }

    async fn usage_list(
        &self,
        filter: &UsageFilter,
        page: Page,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let filter = filter.clone();
        self.read(move |db| usage::usage_list(db, &filter, page)).await
    }

    async fn usage_count(&self, filter: &UsageFilter) -> Result<i64, StoreError> {
        let filter = filter.clone();
        self.read(move |db| usage::usage_count(db, &filter)).await
    }

    async fn usage_report(
        &self,
        filter: &UsageFilter,
        report: &Report,
    ) -> Result<Reported, StoreError> {
        let (filter, report) = (filter.clone(), report.clone());
        self.read(move |db| usage::usage_report(db, &filter, &report)).await
    }

    async fn usage_condense(&self, closed: Timestamp) -> Result<Condensed, StoreError> {
        let Some(claim) = self.write(move |db| rollups::claim(db, closed.into())).await? else {
            return self.write(move |db| rollups::usage_condense_finer(db, closed.into())).await;
        };
        let file = self.file.clone();
        let reader = Actor::start("sqlite-sums", 1, move || open_reader(&file)).await?;
        let sums = rollups::sum(reader, claim).await?;
        self.write(move |db| rollups::finish(db, &claim, &sums)).await?;
        Ok(Condensed::One)
    }

    async fn usage_expire(
        &self,
        before: Timestamp,
        at_most: i64,
    ) -> Result<Option<u64>, StoreError> {
        self.write(move |db| rollups::usage_expire(db, before.into(), at_most)).await
    }
}
