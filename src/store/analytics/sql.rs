//! The texts of both dialects: one text with a few words that differ, so that both databases count alike.

use super::filter::{Conditions, Param};
use super::plan::{Grain, Plan};
use super::{Bucket, Dimension, Report, UsageFilter};
use crate::store::values::Instant;

/// The words in which the databases differ.
pub(in crate::store) struct Dialect {
    /// Before the number of a parameter.
    pub(super) mark: char,
    /// `counts_toward_budget`, as the partial index spells its opposite.
    pub(super) counted: &'static str,
    pub(super) uncounted: &'static str,
    /// The most a row counts: a billion dollars as the column holds them.
    most_cost: &'static str,
    pub(super) is_postgres: bool,
}

pub(in crate::store) const SQLITE: Dialect = Dialect {
    mark: '?',
    counted: "l.counts_toward_budget = 1",
    uncounted: "l.counts_toward_budget = 0",
    most_cost: "1000000000000000",
    is_postgres: false,
};

pub(in crate::store) const POSTGRES: Dialect = Dialect {
    mark: '$',
    counted: "l.counts_toward_budget",
    uncounted: "NOT l.counts_toward_budget",
    most_cost: "1000000000",
    is_postgres: true,
};

/// The most tokens or milliseconds a row counts.
pub(super) const MOST: &str = "1000000000000";

/// Ranges that are written out: two edges and a few late hours.
const WRITTEN_OUT: usize = 8;

/// Columns of `usage_rollups`, in the order in which all texts here name them.
pub(in crate::store) const COLUMNS: [&str; 15] = [
    "row_count",
    "requests",
    "errors",
    "cost",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "latency_ms",
    "latency_count",
    "unpriced",
    "billed_input_tokens",
    "billed_output_tokens",
];

pub(super) const REQUESTS: &str = "count(*) FILTER (WHERE l.status <> 'absorbed')";

/// A statement and its values, in order.
pub(in crate::store) struct Statement {
    pub(in crate::store) sql: String,
    pub(in crate::store) params: Vec<Param>,
}

impl From<(String, Vec<Param>)> for Statement {
    fn from((sql, params): (String, Vec<Param>)) -> Self {
        Self { sql, params }
    }
}

impl Dialect {
    pub(super) fn one_of(&self, column: &str, place: &str) -> String {
        if self.is_postgres {
            format!("{column} = ANY({place})")
        } else {
            format!("{column} IN (SELECT value FROM json_each({place}))")
        }
    }

    /// The rows `l` in so many ranges of a plan, parameters 5 and 6: what to select from, and the condition.
    fn within(&self, ranges: usize) -> (&'static str, String) {
        if self.is_postgres && ranges <= WRITTEN_OUT {
            // Written out, the planner sees the instants and knows how many rows to expect.
            let range = |n| {
                format!(
                    "l.timestamp >= ($5::timestamptz[])[{n}] AND l.timestamp < ($6::timestamptz[])[{n}]"
                )
            };
            let ranges: Vec<String> = (1..=ranges).map(range).collect();
            // Without any range; both parameters must have a type all the same.
            let none = "$5::timestamptz[] IS NULL AND $6::timestamptz[] IS NULL".to_owned();
            let any = if ranges.is_empty() { none } else { ranges.join(" OR ") };
            return ("usage_logs l", format!("({any})"));
        }
        let from = if self.is_postgres {
            "unnest($5::timestamptz[], $6::timestamptz[]) AS w (since, until) CROSS JOIN usage_logs l"
        } else {
            "(SELECT a.value AS since, b.value AS until
                FROM json_each(?5) a JOIN json_each(?6) b ON b.key = a.key) w CROSS JOIN usage_logs l"
        };
        (from, "l.timestamp >= w.since AND l.timestamp < w.until".into())
    }

    pub(super) fn start_of(&self, bucket: Bucket, at: &str) -> String {
        match (self.is_postgres, bucket) {
            (true, bucket) => format!("date_trunc('{}', {at}, 'UTC')", bucket.as_str()),
            (false, Bucket::Hour) => format!("(substr({at}, 1, 13) || ':00:00.000000')"),
            (false, Bucket::Day) => format!("(substr({at}, 1, 10) || ' 00:00:00.000000')"),
        }
    }

    fn no_instant(&self) -> &'static str {
        if self.is_postgres { "NULL::timestamptz" } else { "NULL" }
    }

    /// PostgreSQL's sums of 64 bits are numeric.
    fn int(&self, what: &str) -> String {
        if self.is_postgres { format!("({what})::int8") } else { what.to_owned() }
    }

    /// Micro-dollars.
    fn micro(&self, what: &str) -> String {
        if self.is_postgres { format!("({what} * 1000000)::int8") } else { what.to_owned() }
    }

    pub(super) fn instant(&self, number: usize) -> String {
        let place = format!("{}{number}", self.mark);
        if self.is_postgres { format!("{place}::timestamptz") } else { place }
    }

    pub(super) fn cost(&self) -> String {
        sum("l.cost", self.most_cost, "")
    }

    /// What [`COLUMNS`] are of rows `l`.
    pub(super) fn of_rows(&self) -> String {
        let tokens = |column: &str| sum(&format!("l.{column}"), MOST, "");
        let billed = |column| sum(column, MOST, "FILTER (WHERE l.cost IS NOT NULL)");
        [
            "count(*)".into(),
            REQUESTS.into(),
            "count(*) FILTER (WHERE l.status = 'error')".into(),
            self.cost(),
            tokens("prompt_tokens"),
            tokens("completion_tokens"),
            tokens("total_tokens"),
            tokens("cache_read_tokens"),
            tokens("cache_write_tokens"),
            tokens("cache_write_1h_tokens"),
            sum("l.latency_ms", MOST, "FILTER (WHERE l.status <> 'absorbed')"),
            "count(l.latency_ms) FILTER (WHERE l.status <> 'absorbed')".into(),
            "count(*) FILTER (WHERE l.status = 'success' AND l.cost IS NULL)".into(),
            billed("l.prompt_tokens"),
            billed("l.completion_tokens"),
        ]
        .iter()
        .zip(COLUMNS)
        .map(|(expression, column)| format!("{expression} AS {column}"))
        .collect::<Vec<_>>()
        .join(",\n    ")
    }
}

/// A sum in which no row counts more than `most`. `CASE`, because what `least` and `min` make of null differs.
pub(super) fn sum(column: &str, most: &str, filter: &str) -> String {
    format!("coalesce(sum(CASE WHEN {column} > {most} THEN {most} ELSE {column} END) {filter}, 0)")
}

pub(super) fn joined(each: impl Fn(&str) -> String) -> String {
    COLUMNS.map(each).join(", ")
}

/// Parameters 1 to 6.
fn pieces(plan: Plan) -> Vec<Param> {
    let (since, until) = plan.rows.into_iter().unzip();
    let sums = plan.sums.into_iter().map(Param::Times);
    sums.chain([Param::Times(since), Param::Times(until)]).collect()
}

/// `SELECT what` from the sums `r` of each grain of a plan, parameters 1 to 4.
fn kept(dialect: &Dialect, table: &str, what: &str, condition: &str) -> String {
    let of_grain = |(n, grain): (usize, &Grain)| {
        let buckets = dialect.one_of("r.bucket", &format!("{}{}", dialect.mark, n + 1));
        let name = grain.as_str();
        format!("SELECT {what} FROM {table} r WHERE r.grain = '{name}' AND {buckets}{condition}")
    };
    Grain::ALL.iter().enumerate().map(of_grain).collect::<Vec<_>>().join(" UNION ALL ")
}

/// Marks and sums that there are, as (`mark` or the name of a grain; instant).
pub(in crate::store) fn known(dialect: &Dialect, start: Instant, end: Instant) -> Statement {
    let (from, until) = (dialect.instant(1), dialect.instant(2));
    let sql = format!(
        "-- usage_report
        SELECT 'mark', hour FROM usage_rollup_marks WHERE hour >= {from} AND hour < {until} GROUP BY hour
        UNION ALL
        SELECT grain, bucket FROM usage_rollups
        WHERE grain IN ('hour', 'six_hours', 'day', 'week') AND bucket >= {from} AND bucket < {until}"
    );
    (sql, vec![Param::Time(start), Param::Time(end)]).into()
}

/// Bucket, then [`COLUMNS`]: the buckets that have rows, oldest first.
pub(in crate::store) fn totals(
    dialect: &Dialect,
    plan: Plan,
    filter: &UsageFilter,
    bucket: Bucket,
) -> Statement {
    let (from, is_within) = dialect.within(plan.rows.len());
    let mut more = Conditions::after(pieces(plan));
    filter.conditions(dialect, &mut more);
    let columns = joined(|column| format!("r.{column}"));
    let what = format!("{} AS bucket, {columns}", dialect.start_of(bucket, "r.bucket"));
    let sums = joined(|column| {
        let sum = format!("sum(p.{column})");
        if column == "cost" { dialect.micro(&sum) } else { dialect.int(&sum) }
    });
    let sql = format!(
        "-- usage_report
        WITH piece AS (
            {} UNION ALL
            SELECT {} AS bucket, {}
            FROM {from} WHERE {is_within}{}
            GROUP BY 1
        )
        SELECT p.bucket, {sums} FROM piece p GROUP BY p.bucket ORDER BY p.bucket",
        kept(dialect, "usage_rollups", &what, ""),
        dialect.start_of(bucket, "l.timestamp"),
        dialect.of_rows(),
        more.sql,
    );
    (sql, more.params).into()
}

/// Dimension, whether it is the fold, key, label, bucket, micro-dollars, tokens, requests.
pub(in crate::store) fn groups(
    dialect: &Dialect,
    plan: Plan,
    filter: &UsageFilter,
    report: &Report,
) -> Statement {
    let (from, is_within) = dialect.within(plan.rows.len());
    let mut params = pieces(plan);
    let names = report.dimensions.iter().map(|dimension| dimension.as_str().to_owned()).collect();
    params.extend([Param::Texts(names), Param::Big(report.top), Param::Big(report.top_labels)]);
    let mut more = Conditions::after(params);
    filter.conditions(dialect, &mut more);
    let at = |column: &str| report.is_split.then(|| dialect.start_of(report.bucket, column));
    let bucket = at("r.bucket").unwrap_or_else(|| dialect.no_instant().into());
    let what = format!("r.dimension, r.key, {bucket} AS bucket, r.cost, r.tokens, r.requests");
    let wanted = dialect.one_of("r.dimension", &format!("{}7", dialect.mark));
    let kept = kept(dialect, "usage_rollup_groups", &what, &format!(" AND {wanted}"));
    let condition = format!("{is_within}{}", more.sql);
    let bucket = at("l.timestamp");
    let rows = dialect.split(&report.dimensions, bucket.as_deref(), from, &condition);
    let pieces = format!(
        "SELECT dimension, key, bucket, sum(cost) AS cost, sum(tokens) AS tokens, sum(requests) AS requests FROM (
            {kept} UNION ALL SELECT dimension, key, bucket, cost, tokens, requests FROM ({rows}) s
        ) p GROUP BY 1, 2, 3"
    );
    (ranked(dialect, &pieces), more.params).into()
}

/// Names the groups of `pieces`, ranks them and folds what is beyond the top: parameter 8, of labels 9. The place of a
/// group does not depend on the bucket: a series shows the same groups all along.
fn ranked(dialect: &Dialect, pieces: &str) -> String {
    let collate = if dialect.is_postgres { " COLLATE \"C\"" } else { "" };
    format!(
        "-- usage_report
        WITH piece AS ({pieces}), named AS (
            SELECT p.dimension,
                CASE p.dimension WHEN 'user' THEN u.user_id WHEN 'api_key' THEN k.id ELSE p.key END AS key,
                CASE p.dimension WHEN 'user' THEN u.alias WHEN 'api_key' THEN k.key_name END AS label,
                p.bucket, sum(p.cost) AS cost, sum(p.tokens) AS tokens, sum(p.requests) AS requests
            FROM piece p
            LEFT JOIN users u ON p.dimension = 'user' AND u.user_id = p.key
            LEFT JOIN api_keys k ON p.dimension = 'api_key' AND k.id = p.key
            GROUP BY 1, 2, 3, 4
        ), weighed AS (
            SELECT n.*, sum(n.cost) OVER w AS weight, sum(n.requests) OVER w AS calls
            FROM named n WINDOW w AS (PARTITION BY n.dimension, n.key)
        ), ranked AS (
            SELECT *, dense_rank() OVER (PARTITION BY dimension
                ORDER BY weight DESC, calls DESC, key{collate}) AS place,
                CASE dimension WHEN 'source_label' THEN {top_labels} ELSE {top} END AS top
            FROM weighed
        ), placed AS (
            SELECT dimension, CASE WHEN place > top THEN 1 ELSE 0 END AS folded,
                CASE WHEN place > top THEN top + 1 ELSE place END AS place,
                CASE WHEN place > top THEN NULL ELSE key END AS key,
                CASE WHEN place > top THEN NULL ELSE label END AS label, bucket, cost, tokens, requests
            FROM ranked
        )
        SELECT dimension, {folded}, key, label, bucket, {}, {}, {} FROM placed
        GROUP BY dimension, folded, place, key, label, bucket ORDER BY dimension, place, bucket",
        dialect.micro("sum(cost)"),
        dialect.int("sum(tokens)"),
        dialect.int("sum(requests)"),
        top = big(dialect, 8),
        top_labels = big(dialect, 9),
        folded = if dialect.is_postgres { "folded = 1" } else { "folded" },
    )
}

fn big(dialect: &Dialect, number: usize) -> String {
    let place = format!("{}{number}", dialect.mark);
    if dialect.is_postgres { format!("{place}::int8") } else { place }
}

/// How many rows there are in a plan. `single`: the only thing asked besides the time.
pub(in crate::store) fn count(
    dialect: &Dialect,
    plan: Plan,
    filter: &UsageFilter,
    single: Option<(Dimension, Vec<String>)>,
) -> Statement {
    let (from, is_within) = dialect.within(plan.rows.len());
    let mut params = pieces(plan);
    let mark = dialect.mark;
    let (table, condition) = match single {
        None => ("usage_rollups", String::new()),
        Some((dimension, values)) => {
            params.push(Param::Texts(values));
            // A key that is gone has no rows any more.
            let lives = match dimension {
                Dimension::User => "EXISTS (SELECT 1 FROM users u WHERE u.user_id = r.key)",
                Dimension::ApiKey => "EXISTS (SELECT 1 FROM api_keys k WHERE k.id = r.key)",
                _ => "1 = 1",
            };
            let is_one = dialect.one_of("r.key", &format!("{mark}7"));
            let name = dimension.as_str();
            let condition = format!(" AND r.dimension = '{name}' AND {is_one} AND {lives}");
            ("usage_rollup_groups", condition)
        }
    };
    let mut more = Conditions::after(params);
    filter.conditions(dialect, &mut more);
    let kept = kept(dialect, table, "r.row_count", &condition);
    let rows = format!("SELECT count(*) FROM {from} WHERE {is_within}{}", more.sql);
    let sum = dialect.int("coalesce(sum(row_count), 0)");
    let sql = format!("-- usage_count\nSELECT {sum} FROM ({kept} UNION ALL {rows}) p");
    (sql, more.params).into()
}

/// Rows of each hour of parameter 1 that has any, as (hour, rows).
pub(in crate::store) fn hourly(
    dialect: &Dialect,
    hours: Vec<Instant>,
    single: Option<(Dimension, Vec<String>)>,
) -> Statement {
    let mark = dialect.mark;
    let buckets = dialect.one_of("r.bucket", &format!("{mark}1"));
    let rows = dialect.int("sum(r.row_count)");
    let mut params = vec![Param::Times(hours)];
    let (table, condition) = match single {
        None => ("usage_rollups", String::new()),
        Some((dimension, values)) => {
            params.push(Param::Texts(values));
            let is_one = dialect.one_of("r.key", &format!("{mark}2"));
            let condition = format!(" AND r.dimension = '{}' AND {is_one}", dimension.as_str());
            ("usage_rollup_groups", condition)
        }
    };
    let sql = format!(
        "-- usage_list
        SELECT r.bucket, {rows} FROM {table} r WHERE r.grain = 'hour' AND {buckets}{condition} GROUP BY r.bucket"
    );
    (sql, params).into()
}

/// How many rows there are, counted one by one.
pub(in crate::store) fn count_rows(dialect: &Dialect, filter: &UsageFilter) -> Statement {
    let mut where_ = Conditions::after(Vec::new());
    filter.window(dialect, &mut where_);
    filter.conditions(dialect, &mut where_);
    let sql =
        format!("-- usage_count\nSELECT count(*) FROM usage_logs l WHERE 1 = 1{}", where_.sql);
    (sql, where_.params).into()
}

/// How many rows did not succeed, counted one by one.
pub(in crate::store) fn count_unusual(dialect: &Dialect, filter: &UsageFilter) -> Statement {
    let mut counted = count_rows(dialect, filter);
    counted.sql.push_str(" AND l.status <> 'success'");
    counted
}

/// A page of rows, newest first. The names are looked up for the rows of the page alone.
pub(in crate::store) fn list(
    dialect: &Dialect,
    filter: &UsageFilter,
    skip: i64,
    limit: i64,
) -> Statement {
    let mut where_ = Conditions::after(vec![Param::Big(limit), Param::Big(skip)]);
    filter.window(dialect, &mut where_);
    filter.conditions(dialect, &mut where_);
    let order = if dialect.is_postgres {
        "l.timestamp DESC, l.id COLLATE \"C\" DESC"
    } else {
        "l.timestamp DESC, l.id DESC"
    };
    let mark = dialect.mark;
    let sql = format!(
        "-- usage_list
        SELECT l.id, l.api_key_id, k.key_name, l.user_id, u.alias, l.timestamp, l.model, l.provider, l.endpoint,
            l.prompt_tokens, l.completion_tokens, l.total_tokens, l.cache_read_tokens, l.cache_write_tokens,
            l.cache_write_1h_tokens, {}, l.status, l.error_message, l.status_code, l.latency_ms, l.source,
            l.source_label, l.policy_name, l.selection_reason, l.attempt_position, l.attempt_count,
            l.request_group_id, l.counts_toward_budget
        FROM (SELECT * FROM usage_logs l WHERE 1 = 1{} ORDER BY {order} LIMIT {mark}1 OFFSET {mark}2) l
        LEFT JOIN api_keys k ON k.id = l.api_key_id
        LEFT JOIN users u ON u.user_id = l.user_id
        ORDER BY {order}",
        dialect.micro("l.cost"),
        where_.sql
    );
    (sql, where_.params).into()
}

/// First and last instant of all rows.
pub(in crate::store) const SPAN: &str =
    "-- usage_count\nSELECT min(timestamp), max(timestamp) FROM usage_logs";
