-- Access, aliases, ceilings, exact prices and several gateways on one database. Names are those of the reference gateway's
-- later version where it has them; IF NOT EXISTS, because a database that comes from it has some of these already.

ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS allowed_models json;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS exclude_from_budget boolean NOT NULL DEFAULT false;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS reject_user_mismatch boolean;

-- `spend_since`: when `spend` was last zero. A record older than that belongs to a period that is over.
ALTER TABLE users ADD COLUMN IF NOT EXISTS allowed_models json;
ALTER TABLE users ADD COLUMN IF NOT EXISTS spend_since timestamptz;

ALTER TABLE budgets ADD COLUMN IF NOT EXISTS name varchar;
ALTER TABLE budgets ADD COLUMN IF NOT EXISTS reset_alignment varchar;

ALTER TABLE model_pricing ADD COLUMN IF NOT EXISTS cache_read_price_per_million numeric(18, 8);
ALTER TABLE model_pricing ADD COLUMN IF NOT EXISTS cache_write_price_per_million numeric(18, 8);
ALTER TABLE model_pricing ADD COLUMN IF NOT EXISTS cache_write_1h_price_per_million numeric(18, 8);
ALTER TABLE model_pricing ADD COLUMN IF NOT EXISTS pricing_tiers json NOT NULL DEFAULT '[]';

ALTER TABLE usage_logs ADD COLUMN IF NOT EXISTS cache_write_tokens bigint;
ALTER TABLE usage_logs ADD COLUMN IF NOT EXISTS cache_write_1h_tokens bigint;
ALTER TABLE usage_logs ADD COLUMN IF NOT EXISTS source varchar NOT NULL DEFAULT 'gateway';
ALTER TABLE usage_logs ADD COLUMN IF NOT EXISTS source_label varchar;
ALTER TABLE usage_logs ADD COLUMN IF NOT EXISTS policy_name varchar;
ALTER TABLE usage_logs ADD COLUMN IF NOT EXISTS selection_reason varchar;

CREATE TABLE IF NOT EXISTS model_aliases (
    id varchar PRIMARY KEY,
    name varchar NOT NULL,
    target varchar NOT NULL,
    user_id varchar REFERENCES users (user_id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS uq_model_aliases_name_user ON model_aliases (name, user_id);
CREATE UNIQUE INDEX IF NOT EXISTS uq_model_aliases_name_global ON model_aliases (name) WHERE user_id IS NULL;

CREATE TABLE IF NOT EXISTS scoped_budgets (
    id varchar PRIMARY KEY,
    scope_type varchar NOT NULL,
    scope_id varchar NOT NULL,
    provider_key_id varchar,
    budget_id varchar NOT NULL REFERENCES budgets (budget_id),
    name varchar,
    current_spend numeric(18, 6) NOT NULL DEFAULT 0,
    reserved_spend numeric(18, 6) NOT NULL DEFAULT 0,
    period_start timestamptz,
    period_end timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
ALTER TABLE scoped_budgets ADD COLUMN IF NOT EXISTS spend_since timestamptz;
CREATE UNIQUE INDEX IF NOT EXISTS uq_scoped_budgets_scope_provider
    ON scoped_budgets (scope_type, scope_id, coalesce(provider_key_id, ''));
CREATE INDEX IF NOT EXISTS ix_scoped_budgets_budget_id ON scoped_budgets (budget_id);

CREATE TABLE IF NOT EXISTS runtime_settings (
    key varchar PRIMARY KEY,
    value varchar NOT NULL,
    updated_at timestamptz NOT NULL
);

-- Who serves this database now.
CREATE TABLE gateways (
    id varchar PRIMARY KEY,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL
);

-- What each gateway may still spend of a budget without asking: `scope` is `user` or `ceiling`. Always, for each of them:
-- spend + the sum of its leases <= max_budget, unless the cap was lowered below what is spent. `serial` and `given`
-- make a repeated step of one lease a step once; `answered_at`: when the holder last gave back what it did not need.
CREATE TABLE budget_leases (
    scope varchar NOT NULL,
    scope_id varchar NOT NULL,
    gateway_id varchar NOT NULL REFERENCES gateways (id) ON DELETE CASCADE,
    amount numeric(18, 6) NOT NULL,
    held numeric(18, 6) NOT NULL DEFAULT 0,
    serial bigint NOT NULL DEFAULT 0,
    given bigint NOT NULL DEFAULT 0,
    granted numeric(18, 6) NOT NULL DEFAULT 0,
    answered_at timestamptz NOT NULL,
    PRIMARY KEY (scope, scope_id, gateway_id)
);

-- What the gateways must read again. `xid`: a reader that remembers where its snapshot began misses no row of a
-- transaction that committed later than its number says.
CREATE TABLE changes (
    seq bigserial PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT now(),
    kind varchar NOT NULL,
    id varchar NOT NULL
);
CREATE INDEX ix_changes_xid ON changes (xid);

-- In the database, so that a change by hand is seen too. Its argument: the column that names the row.
CREATE FUNCTION otari_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        EXECUTE format('SELECT ($1).%I::text', TG_ARGV[0]) INTO changed USING OLD;
    ELSE
        EXECUTE format('SELECT ($1).%I::text', TG_ARGV[0]) INTO changed USING NEW;
    END IF;
    INSERT INTO changes (kind, id) VALUES (TG_TABLE_NAME, changed);
    PERFORM pg_notify('otari_changes', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER otari_changed AFTER INSERT OR DELETE OR UPDATE OF key_hash, user_id, expires_at, is_active, allowed_models,
    exclude_from_budget, reject_user_mismatch ON api_keys FOR EACH ROW EXECUTE FUNCTION otari_changed('id');
CREATE TRIGGER otari_changed AFTER INSERT OR DELETE OR UPDATE OF budget_id, blocked, deleted_at, budget_started_at,
    next_budget_reset_at, spend_since, allowed_models ON users FOR EACH ROW EXECUTE FUNCTION otari_changed('user_id');
CREATE TRIGGER otari_changed AFTER INSERT OR DELETE OR UPDATE ON budgets
    FOR EACH ROW EXECUTE FUNCTION otari_changed('budget_id');
CREATE TRIGGER otari_changed AFTER INSERT OR DELETE OR UPDATE ON model_pricing
    FOR EACH ROW EXECUTE FUNCTION otari_changed('model_key');
CREATE TRIGGER otari_changed AFTER INSERT OR DELETE OR UPDATE ON model_aliases
    FOR EACH ROW EXECUTE FUNCTION otari_changed('id');
CREATE TRIGGER otari_changed AFTER INSERT OR DELETE OR UPDATE OF budget_id, period_start, period_end, spend_since
    ON scoped_budgets FOR EACH ROW EXECUTE FUNCTION otari_changed('id');
CREATE TRIGGER otari_changed AFTER INSERT OR DELETE OR UPDATE ON runtime_settings
    FOR EACH ROW EXECUTE FUNCTION otari_changed('key');
