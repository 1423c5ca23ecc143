-- Two processes serve one file while one takes the place of the other: who they are, what each may spend of a budget without
-- asking, and who asks whom to give back. As in PostgreSQL; instants in microseconds since 1970, by the machine's clock.

CREATE TABLE gateways (
    id TEXT PRIMARY KEY,
    started_at_us INTEGER NOT NULL,
    seen_at_us INTEGER NOT NULL
) STRICT;
CREATE TABLE budget_leases (
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL REFERENCES gateways (id) ON DELETE CASCADE,
    amount INTEGER NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    serial INTEGER NOT NULL DEFAULT 0,
    given INTEGER NOT NULL DEFAULT 0,
    granted INTEGER NOT NULL DEFAULT 0,
    answered_at_us INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, scope_id, gateway_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ix_budget_leases_gateway_id ON budget_leases (gateway_id);
CREATE TABLE otari_lease_recalls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    gateway_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL
) STRICT;
