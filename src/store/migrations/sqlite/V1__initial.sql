-- Table, column and index names are those of the reference gateway. Money is whole micro-dollars (rates: 1e-8 USD),
-- instants are text `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, booleans 0 or 1. STRICT: a sum that left the integers would
-- otherwise be kept as a float without a word.

CREATE TABLE budgets (
    budget_id TEXT NOT NULL PRIMARY KEY,
    max_budget INTEGER,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    budget_duration_sec INTEGER
) STRICT;

CREATE TABLE users (
    user_id TEXT NOT NULL PRIMARY KEY,
    alias TEXT,
    spend INTEGER NOT NULL,
    budget_id TEXT CONSTRAINT users_budget_id_fkey REFERENCES budgets (budget_id),
    blocked INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    metadata TEXT NOT NULL,
    budget_started_at TEXT,
    next_budget_reset_at TEXT,
    deleted_at TEXT,
    reserved INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX ix_users_deleted_at ON users (deleted_at);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    key_hash TEXT NOT NULL,
    key_name TEXT,
    user_id TEXT CONSTRAINT api_keys_user_id_fkey REFERENCES users (user_id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    last_used_at TEXT,
    expires_at TEXT,
    is_active INTEGER NOT NULL,
    metadata TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX ix_api_keys_key_hash ON api_keys (key_hash);
CREATE INDEX ix_api_keys_user_id ON api_keys (user_id);

CREATE TABLE model_pricing (
    model_key TEXT NOT NULL,
    input_price_per_million INTEGER NOT NULL,
    output_price_per_million INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    effective_at TEXT NOT NULL,
    CONSTRAINT model_pricing_pkey PRIMARY KEY (model_key, effective_at)
) STRICT;

CREATE TABLE usage_logs (
    id TEXT NOT NULL PRIMARY KEY,
    api_key_id TEXT CONSTRAINT usage_logs_api_key_id_fkey REFERENCES api_keys (id) ON DELETE SET NULL,
    user_id TEXT CONSTRAINT usage_logs_user_id_fkey REFERENCES users (user_id) ON DELETE SET NULL,
    timestamp TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT,
    endpoint TEXT NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    total_tokens INTEGER,
    cost INTEGER,
    status TEXT NOT NULL,
    error_message TEXT,
    cache_read_tokens INTEGER,
    status_code INTEGER,
    latency_ms INTEGER,
    attempt_position INTEGER,
    attempt_count INTEGER,
    request_group_id TEXT,
    counts_toward_budget INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX ix_usage_logs_api_key_id ON usage_logs (api_key_id);
CREATE INDEX ix_usage_logs_timestamp ON usage_logs (timestamp);
CREATE INDEX ix_usage_logs_user_id ON usage_logs (user_id);
CREATE INDEX ix_usage_logs_user_id_timestamp ON usage_logs (user_id, timestamp);

CREATE TABLE budget_reset_logs (
    id INTEGER PRIMARY KEY,
    user_id TEXT CONSTRAINT budget_reset_logs_user_id_fkey REFERENCES users (user_id) ON DELETE SET NULL,
    budget_id TEXT NOT NULL CONSTRAINT budget_reset_logs_budget_id_fkey REFERENCES budgets (budget_id),
    previous_spend INTEGER NOT NULL,
    reset_at TEXT NOT NULL,
    next_reset_at TEXT
) STRICT;
CREATE INDEX ix_budget_reset_logs_user_id ON budget_reset_logs (user_id);
