//! Which usage rows, as SQL conditions with parameters.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::Dimension;
use super::sql::Dialect;
use crate::store::values::Instant;

/// `usage_logs.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageStatus {
    /// A whole answer.
    Success,
    /// The caller saw an error, a cut stream, or left.
    Error,
    /// Failed, and followed by another attempt.
    Absorbed,
}

/// Rows of calls that used a tool of the gateway. This version runs none, so there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Any of them.
    Any,
    /// Search.
    WebSearch,
    /// Code.
    CodeExecution,
}

/// Which usage rows; everything given must hold. Of a list, one value must be the row's; an empty list asks nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsageFilter {
    /// Inclusive.
    pub start: Option<Timestamp>,
    /// Exclusive.
    pub end: Option<Timestamp>,
    /// Billed users.
    pub user_ids: Vec<String>,
    /// How they ended.
    pub status: Option<UsageStatus>,
    /// Of `error` rows only.
    pub status_code: Option<i32>,
    /// Model names.
    pub models: Vec<String>,
    /// Route template.
    pub endpoint: Option<String>,
    /// Provider instance.
    pub provider: Option<String>,
    /// Who wrote the row.
    pub source: Option<String>,
    /// The writer's own label.
    pub source_label: Option<String>,
    /// API keys.
    pub api_key_ids: Vec<String>,
    /// With or without a cost.
    pub priced: Option<bool>,
    /// That used a tool.
    pub tool: Option<Tool>,
    /// Whether the cost was added to the user's spend.
    pub counts_toward_budget: Option<bool>,
    /// Requests.
    pub request_group_ids: Vec<String>,
}

/// A value of a condition.
#[derive(Clone, Debug)]
pub(in crate::store) enum Param {
    Time(Instant),
    Times(Vec<Instant>),
    Text(String),
    Texts(Vec<String>),
    Int(i32),
    Big(i64),
}

/// Conditions on `usage_logs l`, each with ` AND ` before it, and their values.
#[derive(Debug)]
pub(in crate::store) struct Conditions {
    pub(in crate::store) sql: String,
    pub(in crate::store) params: Vec<Param>,
}

impl Conditions {
    /// Conditions that come after these parameters.
    pub(super) fn after(params: Vec<Param>) -> Self {
        Self { sql: String::new(), params }
    }

    /// `text` with `?` where the value goes.
    fn add(&mut self, dialect: &Dialect, text: &str, param: Param) {
        self.params.push(param);
        let place = format!("{}{}", dialect.mark, self.params.len());
        let _ = write!(self.sql, " AND {}", text.replace('?', &place));
    }

    fn plain(&mut self, text: &str) {
        let _ = write!(self.sql, " AND {text}");
    }

    /// One value is compared with `=`, so that an index gives the rows in their order.
    fn any(&mut self, dialect: &Dialect, column: &str, values: &[String]) {
        match values {
            [] => {}
            [one] => self.add(dialect, &format!("{column} = ?"), Param::Text(one.clone())),
            many => {
                let one_of = dialect.one_of(column, "?");
                self.add(dialect, &one_of, Param::Texts(many.to_vec()));
            }
        }
    }

    fn maybe(&mut self, dialect: &Dialect, column: &str, value: Option<&String>) {
        if let Some(value) = value {
            self.add(dialect, &format!("{column} = ?"), Param::Text(value.clone()));
        }
    }
}

impl UsageFilter {
    /// Appends the conditions but those on the time. Texts that are written out are there for partial indexes, whose
    /// own condition must be seen in the query.
    pub(in crate::store) fn conditions(&self, dialect: &Dialect, to: &mut Conditions) {
        to.any(dialect, "l.request_group_id", &self.request_group_ids);
        to.any(dialect, "l.user_id", &self.user_ids);
        to.any(dialect, "l.api_key_id", &self.api_key_ids);
        to.any(dialect, "l.model", &self.models);
        match self.status {
            None => {}
            Some(UsageStatus::Success) => to.plain("l.status = 'success'"),
            Some(UsageStatus::Error) => to.plain("l.status = 'error' AND l.status <> 'success'"),
            Some(UsageStatus::Absorbed) => {
                to.plain("l.status = 'absorbed' AND l.status <> 'success'");
            }
        }
        if let Some(code) = self.status_code {
            to.plain("l.status = 'error'");
            to.add(dialect, "l.status_code = ?", Param::Int(code));
        }
        to.maybe(dialect, "l.endpoint", self.endpoint.as_ref());
        to.maybe(dialect, "l.provider", self.provider.as_ref());
        to.maybe(dialect, "l.source", self.source.as_ref());
        if self.source.as_deref().is_some_and(|source| source != "gateway") {
            to.plain("l.source <> 'gateway'");
        }
        to.maybe(dialect, "l.source_label", self.source_label.as_ref());
        match self.priced {
            None => {}
            Some(true) => to.plain("l.cost IS NOT NULL"),
            Some(false) => to.plain("l.cost IS NULL"),
        }
        if let Some(counts) = self.counts_toward_budget {
            to.plain(if counts { dialect.counted } else { dialect.uncounted });
        }
        if self.tool.is_some() {
            to.plain("1 = 0");
        }
    }

    /// Its window, cut to the rows there are.
    pub(in crate::store) fn within(&self, oldest: Instant, newest: Instant) -> (Instant, Instant) {
        let start = self.start.map_or(oldest, |start| oldest.max(start.into()));
        let after = Instant(newest.0.saturating_add(1));
        (start, self.end.map_or(after, |end| after.min(end.into())))
    }

    /// Appends the conditions on the time.
    pub(in crate::store) fn window(&self, dialect: &Dialect, to: &mut Conditions) {
        if let Some(start) = self.start {
            to.add(dialect, "l.timestamp >= ?", Param::Time(start.into()));
        }
        if let Some(end) = self.end {
            to.add(dialect, "l.timestamp < ?", Param::Time(end.into()));
        }
    }

    /// The same without the status, if it asks for successes and besides for one column at most: those are all such rows
    /// but the few that did not succeed, and both can be counted without reading many.
    pub(in crate::store) fn but_for_success(&self) -> Option<Self> {
        let rest = Self { status: None, ..self.clone() };
        (self.status == Some(UsageStatus::Success) && rest.single().is_some()).then_some(rest)
    }

    /// The column and values it asks for, when that is all it asks besides the time: such rows are counted from the
    /// sums. `Some(None)`: it asks nothing.
    pub(in crate::store) fn single(&self) -> Option<Option<(Dimension, Vec<String>)>> {
        let text = |value: &Option<String>| value.iter().cloned().collect::<Vec<_>>();
        let asked = [
            (Dimension::User, self.user_ids.clone()),
            (Dimension::ApiKey, self.api_key_ids.clone()),
            (Dimension::Model, self.models.clone()),
            (Dimension::Endpoint, text(&self.endpoint)),
            (Dimension::Provider, text(&self.provider)),
            (Dimension::Source, text(&self.source)),
            (Dimension::SourceLabel, text(&self.source_label)),
        ];
        let has_more = self.status.is_some()
            || self.status_code.is_some()
            || self.priced.is_some()
            || self.tool.is_some()
            || self.counts_toward_budget.is_some()
            || !self.request_group_ids.is_empty();
        let mut asked = asked.into_iter().filter(|(_, values)| !values.is_empty());
        let first = asked.next();
        (!has_more && asked.next().is_none()).then_some(first)
    }
}
