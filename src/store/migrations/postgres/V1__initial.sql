-- Table, column, index and constraint names are those of the reference gateway, so that its reports keep working;
-- money is exact (NUMERIC) and counts are 64 bits wide, which is where the types differ.

CREATE TABLE budgets (
    budget_id varchar PRIMARY KEY,
    max_budget numeric(18, 6),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    budget_duration_sec bigint
);

CREATE TABLE users (
    user_id varchar PRIMARY KEY,
    alias varchar,
    spend numeric(18, 6) NOT NULL,
    budget_id varchar REFERENCES budgets (budget_id),
    blocked boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    metadata json NOT NULL,
    budget_started_at timestamptz,
    next_budget_reset_at timestamptz,
    deleted_at timestamptz,
    reserved numeric(18, 6) NOT NULL DEFAULT 0
);
CREATE INDEX ix_users_deleted_at ON users (deleted_at);

CREATE TABLE api_keys (
    id varchar PRIMARY KEY,
    key_hash varchar NOT NULL UNIQUE,
    key_name varchar,
    user_id varchar REFERENCES users (user_id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    last_used_at timestamptz,
    expires_at timestamptz,
    is_active boolean NOT NULL,
    metadata json NOT NULL
);
CREATE UNIQUE INDEX ix_api_keys_key_hash ON api_keys (key_hash);
CREATE INDEX ix_api_keys_user_id ON api_keys (user_id);

CREATE TABLE model_pricing (
    model_key varchar NOT NULL,
    input_price_per_million numeric(18, 8) NOT NULL,
    output_price_per_million numeric(18, 8) NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    PRIMARY KEY (model_key, effective_at)
);

CREATE TABLE usage_logs (
    id varchar PRIMARY KEY,
    api_key_id varchar REFERENCES api_keys (id) ON DELETE SET NULL,
    user_id varchar REFERENCES users (user_id) ON DELETE SET NULL,
    "timestamp" timestamptz NOT NULL,
    model varchar NOT NULL,
    provider varchar,
    endpoint varchar NOT NULL,
    prompt_tokens bigint,
    completion_tokens bigint,
    total_tokens bigint,
    cost numeric(18, 6),
    status varchar NOT NULL,
    error_message varchar,
    cache_read_tokens bigint,
    status_code integer,
    latency_ms bigint,
    attempt_position integer,
    attempt_count integer,
    request_group_id varchar,
    counts_toward_budget boolean NOT NULL DEFAULT true
);
CREATE INDEX ix_usage_logs_api_key_id ON usage_logs (api_key_id);
CREATE INDEX ix_usage_logs_timestamp ON usage_logs ("timestamp");
CREATE INDEX ix_usage_logs_user_id ON usage_logs (user_id);
CREATE INDEX ix_usage_logs_user_id_timestamp ON usage_logs (user_id, "timestamp");

CREATE TABLE budget_reset_logs (
    id serial PRIMARY KEY,
    user_id varchar REFERENCES users (user_id) ON DELETE SET NULL,
    budget_id varchar NOT NULL REFERENCES budgets (budget_id),
    previous_spend numeric(18, 6) NOT NULL,
    reset_at timestamptz NOT NULL,
    next_reset_at timestamptz
);
CREATE INDEX ix_budget_reset_logs_user_id ON budget_reset_logs (user_id);
