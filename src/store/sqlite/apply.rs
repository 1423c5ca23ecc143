//! `usage_logs` and `budget_reset_logs` in SQLite: what the journal brings.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use otari_filters::control::Scope;
use otari_filters::settle::{BudgetReset, Entry, UsageRecord};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::leases;
use crate::store::analytics::plan::Grain;
use crate::store::values::{Instant, MAX_AMOUNT, Usage, amount, clean};
use crate::store::{Applied, StoreError};

/// Ids that are gone become null; the caller holds the write lock, so they cannot go in between.
const KEY_IS_THERE: &str = "-- apply\nSELECT 1 FROM api_keys WHERE id = ?1";
const USER_IS_THERE: &str = "-- apply\nSELECT 1 FROM users WHERE user_id = ?1";

/// Rows of one statement, at most. More of them bring little more.
const ROWS: usize = 8;

/// Columns of a row, and values that a statement takes for it.
const COLUMNS: usize = 24;

/// As many rows as there are arguments. What opens, looks for and closes the table and its indexes is done once for all
/// of them, which is a third of what a row costs alone.
macro_rules! insert {
    ($verb:literal $first:literal $($more:literal)*) => {
        concat!(
            "-- apply\n",
            $verb,
            " INTO usage_logs (id, api_key_id, user_id, timestamp, model, provider, endpoint,
                prompt_tokens, completion_tokens, total_tokens, cost, status, error_message, cache_read_tokens,
                status_code, latency_ms, attempt_position, attempt_count, request_group_id, counts_toward_budget,
                cache_write_tokens, cache_write_1h_tokens, policy_name, selection_reason)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            $(insert!(@ $more),)*
            " ON CONFLICT (id) DO NOTHING"
        )
    };
    (@ $more:literal) => {
        ", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    };
}
/// For one row, for two, and so on. `OR FAIL`: whatever goes wrong takes the transaction back; for the usual `ABORT` SQLite
/// would keep a copy of each page that several rows change. Not for one, which may be written with triggers on: a trigger
/// takes over what its statement says, and the one on new rows passes over marks that are there.
const INSERT: [&str; ROWS] = [
    insert!("INSERT" 1),
    insert!("INSERT OR FAIL" 1 2),
    insert!("INSERT OR FAIL" 1 2 3),
    insert!("INSERT OR FAIL" 1 2 3 4),
    insert!("INSERT OR FAIL" 1 2 3 4 5),
    insert!("INSERT OR FAIL" 1 2 3 4 5 6),
    insert!("INSERT OR FAIL" 1 2 3 4 5 6 7),
    insert!("INSERT OR FAIL" 1 2 3 4 5 6 7 8),
];

/// What the trigger on new rows does, once for a batch.
const MARK: &str = "-- apply\nINSERT OR IGNORE INTO usage_rollup_marks (hour) VALUES (?1)";

/// What the last reset of a user or a ceiling left standing.
const USER_SINCE: &str = "-- apply
    SELECT spend_since FROM users WHERE user_id = ?1 AND deleted_at IS NULL";
const CEILING_SINCE: &str = "-- apply\nSELECT spend_since FROM scoped_budgets WHERE id = ?1";

const USER_SPEND: &str = "-- apply
    UPDATE users SET spend = min(spend + ?2, ?4), updated_at = max(updated_at, ?3) WHERE user_id = ?1";
const CEILING_SPEND: &str = "-- apply
    UPDATE scoped_budgets SET current_spend = min(current_spend + ?2, ?4), updated_at = max(updated_at, ?3)
    WHERE id = ?1";

/// What is older than the last reset belongs to the period that ended after it.
const LATE: &str = "-- apply
    UPDATE budget_reset_logs SET previous_spend = min(previous_spend + ?3, ?4) WHERE id = (
        SELECT id FROM budget_reset_logs WHERE user_id = ?1 AND reset_at > ?2 ORDER BY reset_at LIMIT 1)";

/// What was spent since is the new period's.
macro_rules! since {
    () => {
        "coalesce((SELECT sum(l.cost) FROM usage_logs l WHERE l.user_id = users.user_id AND l.timestamp >= ?3
            AND l.counts_toward_budget), 0)"
    };
}
const USER_RESET: &str = concat!(
    "-- apply\nUPDATE users SET spend = ",
    since!(),
    ", spend_since = ?3, budget_started_at = ?3, next_budget_reset_at = ?4, updated_at = max(updated_at, ?3)
     WHERE user_id = ?1 AND deleted_at IS NULL AND next_budget_reset_at = ?2"
);
const CEILING_RESET: &str = "-- apply
    UPDATE scoped_budgets SET current_spend = 0, spend_since = ?3, period_start = ?3, period_end = ?4,
        updated_at = max(updated_at, ?3)
    WHERE id = ?1 AND period_end = ?2";

/// Before the reset. A budget that is gone cannot be named, and a reset of it is not worth refusing.
const RESET_LOG: &str = concat!(
    "-- apply
     INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at, next_reset_at)
     SELECT users.user_id, b.budget_id, max(users.spend - ",
    since!(),
    ", 0), ?3, ?4 FROM users JOIN budgets b ON b.budget_id = ?5
     WHERE users.user_id = ?1 AND users.deleted_at IS NULL AND users.next_budget_reset_at = ?2"
);

/// Which keys and users of a batch are there: a batch has many rows of few.
#[derive(Default)]
struct Known<'a> {
    keys: Ids<'a>,
    users: Ids<'a>,
}

#[derive(Default)]
struct Ids<'a>(HashMap<Cow<'a, str>, bool>);

impl<'a> Ids<'a> {
    fn if_there(
        &mut self,
        db: &Connection,
        sql: &str,
        id: Option<Cow<'a, str>>,
    ) -> Result<Option<Cow<'a, str>>, StoreError> {
        let Some(id) = id else { return Ok(None) };
        let is_there = match self.0.get(&id) {
            Some(is_there) => *is_there,
            None => {
                let is_there = db.prepare_cached(sql)?.exists([&id])?;
                self.0.insert(id.clone(), is_there);
                is_there
            }
        };
        Ok(is_there.then_some(id))
    }
}

/// Wants a transaction of its own. `gateway`: whose leases become smaller, where there are any.
pub(super) fn apply(
    db: &mut Connection,
    gateway: Option<&str>,
    entries: &[Entry],
) -> Result<Applied, StoreError> {
    // Where several rows are written at once nobody says which of them were there. Rows come twice after a crash and at
    // no other time: then all is taken back and done row by row.
    for rows in [ROWS, 1] {
        let transaction = db.transaction()?;
        if let Some(fresh) = write(&transaction, gateway, entries, rows)? {
            transaction.commit()?;
            return Ok(Applied { fresh, repeated: entries.len() - fresh });
        }
    }
    Err(StoreError::Refused { message: "a single row was written and was not".into() })
}

/// The same of one record, in a transaction that is more than that.
pub(super) fn apply_one(
    db: &Connection,
    gateway: Option<&str>,
    record: UsageRecord,
) -> Result<(), StoreError> {
    write(db, gateway, &[Entry::Usage(record)], 1)?;
    Ok(())
}

/// How many entries are new; `None` when that is not known.
fn write(
    db: &Connection,
    gateway: Option<&str>,
    entries: &[Entry],
    rows: usize,
) -> Result<Option<usize>, StoreError> {
    let mut fresh = 0;
    // Resets first: they look for what was spent since among the rows that are there.
    for entry in entries {
        if let Entry::Reset(reset) = entry {
            fresh += usize::from(budget_reset(db, reset)?);
        }
    }
    let records: Vec<&UsageRecord> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Usage(record) => Some(record),
            Entry::Reset(_) | Entry::Report(_) | Entry::Reported(_) => None,
        })
        .collect();
    let mut batch = Batch::default();
    for records in records.chunks(rows) {
        let inserted = insert(db, records, &mut batch.known)?;
        if inserted == records.len() {
            records.iter().for_each(|record| batch.add(record, gateway.is_some()));
        } else if records.len() > 1 {
            return Ok(None);
        }
        fresh += inserted;
    }
    for hour in batch.hours {
        db.prepare_cached(MARK)?.execute([hour])?;
    }
    for (scope, costs) in batch.spent {
        add(db, &scope, &costs)?;
    }
    if let Some(gateway) = gateway {
        batch.drawn.iter().try_for_each(|(scope, cost)| leases::draw(db, gateway, scope, *cost))?;
    }
    Ok(Some(fresh))
}

/// What the new rows of a batch change elsewhere.
#[derive(Default)]
struct Batch<'a> {
    known: Known<'a>,
    /// One update per scope instead of one per row.
    spent: HashMap<Scope, Vec<(Instant, i64)>>,
    drawn: HashMap<Scope, i64>,
    hours: BTreeSet<Instant>,
}

impl Batch<'_> {
    fn add(&mut self, record: &UsageRecord, has_leases: bool) {
        let at = Instant::journalled(record.timestamp_us);
        self.hours.insert(at.start_of(Grain::Hour));
        let Some(cost) = record.cost.map(amount).filter(|_| record.counts_toward_budget) else {
            return;
        };
        let user = record.user_id.iter().map(|id| (Scope::User(id.clone()), record.leased));
        let ceilings = record.ceilings.iter();
        let ceilings = ceilings.map(|charge| (Scope::Ceiling(charge.id.clone()), charge.leased));
        for (scope, leased) in user.chain(ceilings) {
            if has_leases && leased {
                let sum = self.drawn.entry(scope.clone()).or_default();
                *sum = sum.saturating_add(cost);
            }
            self.spent.entry(scope).or_default().push((at, cost));
        }
    }
}

/// How many rows are new.
fn insert<'a>(
    db: &Connection,
    records: &[&'a UsageRecord],
    known: &mut Known<'a>,
) -> Result<usize, StoreError> {
    let Some(sql) = records.len().checked_sub(1).and_then(|last| INSERT.get(last)) else {
        return Ok(0);
    };
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let mut usage = Usage::from(*record);
        usage.api_key_id = known.keys.if_there(db, KEY_IS_THERE, usage.api_key_id)?;
        usage.user_id = known.users.if_there(db, USER_IS_THERE, usage.user_id)?;
        rows.push(usage);
    }
    let mut statement = db.prepare_cached(sql)?;
    for (n, row) in rows.iter().enumerate() {
        bind(&mut statement, n * COLUMNS, row)?;
    }
    Ok(statement.raw_execute()?)
}

/// Gives a statement the values of a row: those that come after `before` others.
fn bind(statement: &mut Statement<'_>, before: usize, usage: &Usage<'_>) -> rusqlite::Result<()> {
    let mut place = before;
    macro_rules! bind {
        ($($field:ident)*) => {$(
            place += 1;
            statement.raw_bind_parameter(place, &usage.$field)?;
        )*};
    }
    bind!(id api_key_id user_id timestamp model provider endpoint prompt_tokens completion_tokens total_tokens cost
        status error_message cache_read_tokens status_code latency_ms attempt_position attempt_count request_group_id
        counts_toward_budget cache_write_tokens cache_write_1h_tokens policy_name selection_reason);
    debug_assert_eq!(place, before + COLUMNS);
    Ok(())
}

/// Adds costs to a scope's spend, or to the log of the period they belong to.
fn add(db: &Connection, scope: &Scope, costs: &[(Instant, i64)]) -> Result<(), StoreError> {
    let (id, since, spend) = match scope {
        Scope::User(id) => (clean(id), USER_SINCE, USER_SPEND),
        Scope::Ceiling(id) => (clean(id), CEILING_SINCE, CEILING_SPEND),
    };
    let since = db.prepare_cached(since)?.query_row([&id], |row| row.get(0)).optional()?;
    let Some(since): Option<Option<Instant>> = since else { return Ok(()) };
    let is_late = |at: &Instant| since.is_some_and(|since| *at < since);
    let mut sum: Option<(i64, Instant)> = None;
    for (at, cost) in costs {
        if !is_late(at) {
            let (total, last) = sum.unwrap_or((0, *at));
            sum = Some((total.saturating_add(*cost), last.max(*at)));
        } else if matches!(scope, Scope::User(_)) {
            db.prepare_cached(LATE)?.execute(params![id, at, cost, MAX_AMOUNT])?;
        }
    }
    if let Some((total, last)) = sum {
        db.prepare_cached(spend)?.execute(params![id, total, last, MAX_AMOUNT])?;
    }
    Ok(())
}

/// Whether the scope still had the deadline that passed.
fn budget_reset(db: &Connection, reset: &BudgetReset) -> Result<bool, StoreError> {
    let (due, at) = (Instant::journalled(reset.due_at_us), Instant::journalled(reset.reset_at_us));
    let next = reset.next_reset_at_us.map(Instant::journalled);
    let (id, sql) = match &reset.scope {
        Scope::User(id) => {
            let id = clean(id);
            let budget = clean(&reset.budget_id);
            db.prepare_cached(RESET_LOG)?.execute(params![id, due, at, next, budget])?;
            (id, USER_RESET)
        }
        Scope::Ceiling(id) => (clean(id), CEILING_RESET),
    };
    Ok(db.prepare_cached(sql)?.execute(params![id, due, at, next])? > 0)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use otari_filters::settle::Status;
    use rusqlite::StatementStatus;

    use super::*;
    use crate::store::{Store, sqlite};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_are_written_by_a_statement_that_is_prepared_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = sqlite::open(&folder.path().join("otari.db")).await.unwrap();
        store.migrate().await.unwrap();
        for round in 0..3 {
            let record = |n| {
                let id = format!("r{round}-{n}").into();
                UsageRecord::new(id, 0, "/v1/chat/completions", "m".into(), Status::Success)
            };
            let entries: Vec<_> = (0..2 * ROWS).map(|n| Entry::Usage(record(n))).collect();
            assert_eq!(store.apply(&entries).await.unwrap().fresh, 2 * ROWS);
            store.key_touch(&[("k".into(), Timestamp::UNIX_EPOCH)]).await.unwrap();
        }
        let ask = |db: &mut Connection| {
            let insert = db.prepare_cached(INSERT[ROWS - 1])?;
            let count = |what| insert.get_status(what);
            Ok((count(StatementStatus::Run), count(StatementStatus::RePrepare)))
        };
        assert_eq!(store.writer.run(ask).await.unwrap(), (6, 0), "runs, and prepared anew");
    }
}
