//! The tables that the reference gateway and we both have: what each column means, whichever of them wrote it. A test of
//! each backend compares the list with the schema that the steps make.

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// Any text.
    Text,
    /// A whole number of 64 bits.
    Count,
    /// A whole number of 32 bits.
    Small,
    /// True or false.
    Flag,
    /// Dollars, to the micro-dollar.
    Money,
    /// As `Money`; more than the column holds is no cap at all.
    Cap,
    /// Dollars per million, to 1e-8.
    Rate,
    /// A point in time.
    Instant,
    /// JSON.
    Json,
}

/// A column of both.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Column {
    /// Its name.
    pub(in crate::store) name: &'static str,
    /// What it holds.
    pub(in crate::store) kind: Kind,
    /// Never null with us.
    pub(in crate::store) required: bool,
    /// Its default with us, as SQL of PostgreSQL.
    pub(in crate::store) default: Option<&'static str>,
}

/// A table of both.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Table {
    /// Its name.
    pub(in crate::store) name: &'static str,
    /// Its primary key.
    pub(in crate::store) key: &'static [&'static str],
    /// Its columns.
    pub(in crate::store) columns: &'static [Column],
    /// Whether every database of the reference has it.
    pub(in crate::store) always: bool,
}

impl Table {
    /// The column of that name.
    pub(in crate::store) fn column(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A column that may be null.
const fn maybe(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, required: false, default: None }
}

/// A column that is never null.
const fn must(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, required: true, default: None }
}

/// A column that is never null and has a default.
const fn or(name: &'static str, kind: Kind, default: &'static str) -> Column {
    Column { name, kind, required: true, default: Some(default) }
}

use Kind::{Cap, Count, Flag, Instant, Json, Money, Rate, Small, Text};

/// All of them, those that others refer to first.
pub(in crate::store) const TABLES: &[Table] = &[
    Table {
        name: "budgets",
        key: &["budget_id"],
        always: true,
        columns: &[
            must("budget_id", Text),
            maybe("max_budget", Cap),
            must("created_at", Instant),
            must("updated_at", Instant),
            maybe("budget_duration_sec", Count),
            maybe("name", Text),
            maybe("reset_alignment", Text),
        ],
    },
    Table {
        name: "users",
        key: &["user_id"],
        always: true,
        columns: &[
            must("user_id", Text),
            maybe("alias", Text),
            must("spend", Money),
            maybe("budget_id", Text),
            must("blocked", Flag),
            must("created_at", Instant),
            must("updated_at", Instant),
            must("metadata", Json),
            maybe("budget_started_at", Instant),
            maybe("next_budget_reset_at", Instant),
            maybe("deleted_at", Instant),
            or("reserved", Money, "0"),
            maybe("allowed_models", Json),
            maybe("spend_since", Instant),
        ],
    },
    Table {
        name: "api_keys",
        key: &["id"],
        always: true,
        columns: &[
            must("id", Text),
            must("key_hash", Text),
            maybe("key_name", Text),
            maybe("user_id", Text),
            must("created_at", Instant),
            maybe("last_used_at", Instant),
            maybe("expires_at", Instant),
            must("is_active", Flag),
            must("metadata", Json),
            maybe("key_prefix", Text),
            maybe("allowed_models", Json),
            or("exclude_from_budget", Flag, "false"),
            maybe("reject_user_mismatch", Flag),
        ],
    },
    Table {
        name: "model_pricing",
        key: &["model_key", "effective_at"],
        always: true,
        columns: &[
            must("model_key", Text),
            must("input_price_per_million", Rate),
            must("output_price_per_million", Rate),
            must("created_at", Instant),
            must("updated_at", Instant),
            must("effective_at", Instant),
            maybe("cache_read_price_per_million", Rate),
            maybe("cache_write_price_per_million", Rate),
            maybe("cache_write_1h_price_per_million", Rate),
            or("pricing_tiers", Json, "'[]'"),
        ],
    },
    Table {
        name: "usage_logs",
        key: &["id"],
        always: true,
        columns: &[
            must("id", Text),
            maybe("api_key_id", Text),
            maybe("user_id", Text),
            must("timestamp", Instant),
            must("model", Text),
            maybe("provider", Text),
            must("endpoint", Text),
            maybe("prompt_tokens", Count),
            maybe("completion_tokens", Count),
            maybe("total_tokens", Count),
            maybe("cost", Money),
            must("status", Text),
            maybe("error_message", Text),
            maybe("cache_read_tokens", Count),
            maybe("status_code", Small),
            maybe("latency_ms", Count),
            maybe("attempt_position", Small),
            maybe("attempt_count", Small),
            maybe("request_group_id", Text),
            or("counts_toward_budget", Flag, "true"),
            maybe("cache_write_tokens", Count),
            maybe("cache_write_1h_tokens", Count),
            or("source", Text, "'gateway'"),
            maybe("source_label", Text),
            maybe("policy_name", Text),
            maybe("selection_reason", Text),
        ],
    },
    Table {
        name: "budget_reset_logs",
        key: &["id"],
        always: true,
        columns: &[
            must("id", Small),
            maybe("user_id", Text),
            must("budget_id", Text),
            must("previous_spend", Money),
            must("reset_at", Instant),
            maybe("next_reset_at", Instant),
        ],
    },
    Table {
        name: "model_aliases",
        key: &["id"],
        always: false,
        columns: &[
            must("id", Text),
            must("name", Text),
            must("target", Text),
            maybe("user_id", Text),
            must("created_at", Instant),
            must("updated_at", Instant),
        ],
    },
    Table {
        name: "scoped_budgets",
        key: &["id"],
        always: false,
        columns: &[
            must("id", Text),
            must("scope_type", Text),
            must("scope_id", Text),
            maybe("provider_key_id", Text),
            must("budget_id", Text),
            maybe("name", Text),
            or("current_spend", Money, "0"),
            or("reserved_spend", Money, "0"),
            maybe("period_start", Instant),
            maybe("period_end", Instant),
            must("created_at", Instant),
            must("updated_at", Instant),
            maybe("spend_since", Instant),
        ],
    },
    Table {
        name: "runtime_settings",
        key: &["key"],
        always: false,
        columns: &[must("key", Text), must("value", Text), must("updated_at", Instant)],
    },
    Table {
        name: "file_objects",
        key: &["id"],
        always: false,
        columns: &[
            must("id", Text),
            must("user_id", Text),
            must("filename", Text),
            must("mime_type", Text),
            must("bytes", Count),
            must("purpose", Text),
            must("storage_ref", Text),
            must("created_at", Instant),
            maybe("expires_at", Instant),
            maybe("deleted_at", Instant),
            must("metadata", Json),
            maybe("sha256", Text),
            maybe("claimed_until", Instant),
            maybe("reclaimed_at", Instant),
        ],
    },
];

/// Columns of holds, which end with the process that made them.
pub(in crate::store) const HOLDS: [(&str, &str); 2] =
    [("users", "reserved"), ("scoped_budgets", "reserved_spend")];

/// Tables of our steps that the reference has not, whatever it may have under these names.
pub(in crate::store) const OURS_ALONE: [&str; 13] = [
    "gateways",
    "budget_leases",
    "changes",
    "usage_rollups",
    "usage_rollup_groups",
    "usage_rollup_marks",
    "otari_batches",
    "otari_batch_items",
    "otari_batch_holds",
    "otari_audit_log",
    "otari_rate_limits",
    "otari_rate_places",
    "otari_lease_recalls",
];
