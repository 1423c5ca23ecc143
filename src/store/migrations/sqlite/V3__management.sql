-- Access, aliases, ceilings and exact prices. Names are those of the reference gateway's later version where it has them.
-- What several gateways need of each other is PostgreSQL's alone: an SQLite file has one.

ALTER TABLE api_keys ADD COLUMN allowed_models TEXT;
ALTER TABLE api_keys ADD COLUMN exclude_from_budget INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN reject_user_mismatch INTEGER;

-- `spend_since`: when `spend` was last zero. A record older than that belongs to a period that is over.
ALTER TABLE users ADD COLUMN allowed_models TEXT;
ALTER TABLE users ADD COLUMN spend_since TEXT;

ALTER TABLE budgets ADD COLUMN name TEXT;
ALTER TABLE budgets ADD COLUMN reset_alignment TEXT;

ALTER TABLE model_pricing ADD COLUMN cache_read_price_per_million INTEGER;
ALTER TABLE model_pricing ADD COLUMN cache_write_price_per_million INTEGER;
ALTER TABLE model_pricing ADD COLUMN cache_write_1h_price_per_million INTEGER;
ALTER TABLE model_pricing ADD COLUMN pricing_tiers TEXT NOT NULL DEFAULT '[]';

ALTER TABLE usage_logs ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE usage_logs ADD COLUMN cache_write_1h_tokens INTEGER;
ALTER TABLE usage_logs ADD COLUMN source TEXT NOT NULL DEFAULT 'gateway';
ALTER TABLE usage_logs ADD COLUMN source_label TEXT;
ALTER TABLE usage_logs ADD COLUMN policy_name TEXT;
ALTER TABLE usage_logs ADD COLUMN selection_reason TEXT;

CREATE TABLE model_aliases (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    target TEXT NOT NULL,
    user_id TEXT REFERENCES users (user_id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX uq_model_aliases_name_user ON model_aliases (name, user_id);
CREATE UNIQUE INDEX uq_model_aliases_name_global ON model_aliases (name) WHERE user_id IS NULL;

CREATE TABLE scoped_budgets (
    id TEXT NOT NULL PRIMARY KEY,
    scope_type TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    provider_key_id TEXT,
    budget_id TEXT NOT NULL REFERENCES budgets (budget_id),
    name TEXT,
    current_spend INTEGER NOT NULL DEFAULT 0,
    reserved_spend INTEGER NOT NULL DEFAULT 0,
    period_start TEXT,
    period_end TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    spend_since TEXT
) STRICT;
CREATE UNIQUE INDEX uq_scoped_budgets_scope_provider
    ON scoped_budgets (scope_type, scope_id, coalesce(provider_key_id, ''));
CREATE INDEX ix_scoped_budgets_budget_id ON scoped_budgets (budget_id);

CREATE TABLE runtime_settings (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;
