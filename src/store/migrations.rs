//! The steps from an empty database to the schema of this binary, one SQL file per step and dialect, and the judgement
//! on the schema found. How the schema is read and the steps are run is the backends' business.

use jiff::Timestamp;
use refinery::error::Kind;
use refinery::{Migration, Runner};

use super::StoreError;
use super::adopt::{Origin, Place};

/// The table in which refinery keeps what it did.
pub(super) const HISTORY: &str = "refinery_schema_history";

/// A step: its name (`V<number>__<what>`) and its SQL.
type Step = (&'static str, &'static str);

/// SQLite's steps. A published step never changes: databases hold its checksum.
pub(super) const SQLITE: &[Step] = &[
    ("V1__initial", include_str!("migrations/sqlite/V1__initial.sql")),
    ("V2__key_prefix", include_str!("migrations/sqlite/V2__key_prefix.sql")),
    ("V3__management", include_str!("migrations/sqlite/V3__management.sql")),
    ("V4__usage_rollups", include_str!("migrations/sqlite/V4__usage_rollups.sql")),
    ("V5__files", include_str!("migrations/sqlite/V5__files.sql")),
    ("V6__batches", include_str!("migrations/sqlite/V6__batches.sql")),
    ("V7__batch_holds", include_str!("migrations/sqlite/V7__batch_holds.sql")),
    ("V8__audit_log", include_str!("migrations/sqlite/V8__audit_log.sql")),
    ("V9__rate_limits", include_str!("migrations/sqlite/V9__rate_limits.sql")),
    ("V10__side_by_side", include_str!("migrations/sqlite/V10__side_by_side.sql")),
];

/// PostgreSQL's steps: the same names in the same order.
pub(super) const POSTGRES: &[Step] = &[
    ("V1__initial", include_str!("migrations/postgres/V1__initial.sql")),
    ("V2__key_prefix", include_str!("migrations/postgres/V2__key_prefix.sql")),
    ("V3__management", include_str!("migrations/postgres/V3__management.sql")),
    ("V4__usage_rollups", include_str!("migrations/postgres/V4__usage_rollups.sql")),
    ("V5__files", include_str!("migrations/postgres/V5__files.sql")),
    ("V6__batches", include_str!("migrations/postgres/V6__batches.sql")),
    ("V7__batch_holds", include_str!("migrations/postgres/V7__batch_holds.sql")),
    ("V8__audit_log", include_str!("migrations/postgres/V8__audit_log.sql")),
    ("V9__rate_limits", include_str!("migrations/postgres/V9__rate_limits.sql")),
    ("V10__side_by_side", include_str!("migrations/postgres/V10__side_by_side.sql")),
];

/// What a database says about its schema.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The highest step applied; `None` when there is no history.
    pub(super) version: Option<i32>,
    /// The revision in `alembic_version`, which only the reference gateway writes.
    pub(super) reference: Option<String>,
}

/// What is to be done to a database.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Run the steps that are missing, if any.
    Steps(Origin),
    /// Make it ours: it stands at this revision of the reference gateway.
    Adopt(String, Place),
}

impl Found {
    /// What is to be done here; a schema that this binary cannot bring up to date is refused.
    pub(super) fn plan(&self, steps: &[Step]) -> Result<Plan, StoreError> {
        match (self.version, &self.reference) {
            (None, Some(revision)) => Ok(Plan::Adopt(revision.clone(), Place::of(revision)?)),
            (Some(version), _) if version > known(steps) => Err(StoreError::Schema(format!(
                "this database was upgraded by a newer otari (schema {version}, this binary knows {}); start the newer \
                 binary",
                known(steps)
            ))),
            (Some(version), _) => Ok(Plan::Steps(Origin::Otari(version))),
            (None, None) => Ok(Plan::Steps(Origin::Empty)),
        }
    }

    /// Whether this binary can serve the database as it is.
    pub(super) fn servable(&self, steps: &[Step]) -> Result<(), StoreError> {
        match self.plan(steps)? {
            Plan::Steps(Origin::Otari(version)) if version == known(steps) => Ok(()),
            Plan::Steps(Origin::Otari(version)) => Err(StoreError::Schema(format!(
                "this database has schema {version} and this binary needs {}; run `otari migrate --config FILE`",
                known(steps)
            ))),
            Plan::Steps(_) => Err(StoreError::Schema(
                "this database has no otari schema; run `otari migrate --config FILE`".into(),
            )),
            Plan::Adopt(revision, _) => Err(StoreError::Schema(format!(
                "this database belongs to the reference gateway (revision {revision}) and is not upgraded yet; make a \
                 backup, stop the reference gateway and run `otari migrate --config FILE`"
            ))),
        }
    }
}

/// The steps after `version`, or all of them.
pub(super) fn pending(steps: &[Step], version: Option<i32>) -> Vec<Migration> {
    let after = version.unwrap_or(0);
    runner(steps).get_migrations().iter().filter(|step| step.version() > after).cloned().collect()
}

/// The name of a step as its file has it.
pub(super) fn name(step: &Migration) -> String {
    format!("V{}__{}", step.version(), step.name())
}

/// The names of the steps that a run of [`runner`] reports.
pub(super) fn names(steps: &[Migration]) -> Vec<String> {
    steps.iter().map(name).collect()
}

/// The statements by which refinery will find these steps done.
pub(super) fn history(steps: &[Migration], now: Timestamp) -> String {
    let table = format!(
        "CREATE TABLE IF NOT EXISTS {HISTORY} (version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), \
         checksum VARCHAR(255));"
    );
    steps.iter().fold(table, |sql, step| {
        let (version, name, checksum) = (step.version(), step.name(), step.checksum());
        sql + &format!(
            "\nINSERT INTO {HISTORY} VALUES ({version}, '{name}', '{now}', '{checksum}');"
        )
    })
}

/// Whether a history holds the checksums of our steps, for a rehearsal, which does not run refinery.
pub(super) fn same_build(steps: &[Step], history: &[(i32, String)]) -> Result<(), StoreError> {
    let ours = pending(steps, None);
    let differs = history.iter().find(|(version, checksum)| {
        ours.iter()
            .any(|step| step.version() == *version && step.checksum().to_string() != *checksum)
    });
    differs.map_or(Ok(()), |(version, _)| Err(another_build(version)))
}

fn another_build(step: &dyn std::fmt::Display) -> StoreError {
    StoreError::Schema(format!(
        "this database was upgraded by another build of otari: its step {step} is not this binary's; start the binary \
         that did it"
    ))
}

/// Runs the missing steps in one transaction: a crash half-way leaves the schema as it was.
pub(super) fn runner(steps: &[Step]) -> Runner {
    let steps: Vec<Migration> = steps
        .iter()
        .map(|(name, sql)| {
            Migration::unapplied(name, sql).expect("a step is named V<number>__<what>")
        })
        .collect();
    Runner::new(&steps).set_grouped(true)
}

/// What refinery's failure means here; `driver` reads the errors of the backend's own driver.
pub(super) fn failure<E: std::error::Error + 'static>(
    error: &refinery::Error,
    driver: impl Fn(&E) -> StoreError,
) -> StoreError {
    match error.kind() {
        Kind::Connection(_, cause) => match cause.downcast_ref::<E>() {
            Some(cause) => driver(cause),
            None => StoreError::Refused { message: cause.to_string() },
        },
        Kind::DivergentVersion(applied, _) | Kind::MissingVersion(applied) => {
            another_build(applied)
        }
        other => StoreError::Schema(other.to_string()),
    }
}

/// The schema version of this binary.
fn known(steps: &[Step]) -> i32 {
    i32::try_from(steps.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_have_the_same_steps_numbered_from_one() {
        let names = |steps: &[Step]| steps.iter().map(|step| step.0).collect::<Vec<_>>();
        assert_eq!(names(SQLITE), names(POSTGRES));
        for steps in [SQLITE, POSTGRES] {
            let versions: Vec<i32> =
                runner(steps).get_migrations().iter().map(|step| step.version()).collect();
            assert_eq!(versions, (1..=known(steps)).collect::<Vec<_>>(), "`known` counts on it");
        }
    }

    #[test]
    fn a_schema_is_judged_by_its_version_and_owner() {
        let judge = |version, reference: Option<&str>| {
            let found = Found { version, reference: reference.map(Into::into) };
            let text = |result: Result<(), StoreError>| result.err().map(|error| error.to_string());
            (text(found.plan(SQLITE).map(drop)), text(found.servable(SQLITE)))
        };
        let now = known(SQLITE);
        assert_eq!(judge(Some(now), None), (None, None));
        assert_eq!(
            judge(Some(now), Some("abc")),
            (None, None),
            "ours even beside a leftover table"
        );

        let (migrate, serve) = judge(None, None);
        assert_eq!(migrate, None);
        assert!(serve.is_some_and(|text| text.contains("otari migrate --config FILE")));

        let (migrate, serve) = judge(Some(now - 1), None);
        assert_eq!(migrate, None);
        assert!(serve.is_some_and(|text| text.contains("otari migrate --config FILE")));

        let (migrate, serve) = judge(Some(now + 1), None);
        assert!(migrate.is_some_and(|text| text.contains("start the newer binary")));
        assert!(serve.is_some_and(|text| text.contains("start the newer binary")));

        let (migrate, serve) = judge(None, Some("c3d5e7f9a1b3"));
        assert_eq!(migrate, None, "it can be made ours");
        assert!(serve.is_some_and(|text| text.contains("(revision c3d5e7f9a1b3)")));

        let (migrate, serve) = judge(None, Some("feedfacecafe"));
        assert!(
            migrate.is_some_and(|text| text.contains("feedfacecafe, which this otari does not"))
        );
        assert!(serve.is_some_and(|text| text.contains("Nothing was changed")));
    }
}
