-- What batches that were passed on hold of budgets until they are charged. `scope` is `user` or `ceiling`. Always, for
-- each of them: spend + the sum of its leases + what batches hold <= max_budget.

CREATE TABLE otari_batch_holds (
    provider varchar NOT NULL,
    batch_id varchar NOT NULL,
    scope varchar NOT NULL,
    scope_id varchar NOT NULL,
    amount numeric(18, 6) NOT NULL,
    PRIMARY KEY (provider, batch_id, scope, scope_id)
);
CREATE INDEX ix_otari_batch_holds_scope ON otari_batch_holds (scope, scope_id);
