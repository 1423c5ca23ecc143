//! The steps from an empty database to the schema of this binary, one SQL file per step and dialect, and the judgement
//! on the schema found. How the schema is read and the steps are run is the backends' business.

use refinery::error::Kind;
use refinery::{Migration, Runner};

use super::StoreError;

/// The table in which refinery keeps what it did.
pub(super) const HISTORY: &str = "refinery_schema_history";

/// A step: its name (`V<number>__<what>`) and its SQL.
type Step = (&'static str, &'static str);

/// SQLite's steps. A published step never changes: databases hold its checksum.
pub(super) const SQLITE: &[Step] = &[
    ("V1__initial", include_str!("migrations/sqlite/V1__initial.sql")),
    ("V2__key_prefix", include_str!("migrations/sqlite/V2__key_prefix.sql")),
    ("V3__management", include_str!("migrations/sqlite/V3__management.sql")),
];

/// PostgreSQL's steps: the same names in the same order.
pub(super) const POSTGRES: &[Step] = &[
    ("V1__initial", include_str!("migrations/postgres/V1__initial.sql")),
    ("V2__key_prefix", include_str!("migrations/postgres/V2__key_prefix.sql")),
    ("V3__management", include_str!("migrations/postgres/V3__management.sql")),
];

/// What a database says about its schema.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The highest step applied; `None` when there is no history.
    pub(super) version: Option<i32>,
    /// The revision in `alembic_version`, which only the reference gateway writes.
    pub(super) reference: Option<String>,
}

impl Found {
    /// Whether [`runner`] may run here.
    pub(super) fn migratable(&self, steps: &[Step]) -> Result<(), StoreError> {
        match (self.version, &self.reference) {
            (None, Some(revision)) => Err(StoreError::Schema(format!(
                "this database belongs to the reference gateway (revision {revision}); opening it in place is not \
                 supported by this version; use a new database"
            ))),
            (Some(version), _) if version > known(steps) => Err(StoreError::Schema(format!(
                "this database was upgraded by a newer otari (schema {version}, this binary knows {}); start the newer \
                 binary",
                known(steps)
            ))),
            _ => Ok(()),
        }
    }

    /// Whether this binary can serve the database as it is.
    pub(super) fn servable(&self, steps: &[Step]) -> Result<(), StoreError> {
        self.migratable(steps)?;
        match self.version {
            Some(version) if version == known(steps) => Ok(()),
            Some(version) => Err(StoreError::Schema(format!(
                "this database has schema {version} and this binary needs {}; run `otari migrate --config FILE`",
                known(steps)
            ))),
            None => Err(StoreError::Schema(
                "this database has no otari schema; run `otari migrate --config FILE`".into(),
            )),
        }
    }
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
            StoreError::Schema(format!(
                "this database was upgraded by another build of otari: its step {applied} is not this binary's; start the \
             binary that did it"
            ))
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
            (text(found.migratable(SQLITE)), text(found.servable(SQLITE)))
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
        assert!(migrate.is_some_and(|text| text.contains("(revision c3d5e7f9a1b3)")));
        assert!(serve.is_some_and(|text| text.contains("use a new database")));
    }
}
