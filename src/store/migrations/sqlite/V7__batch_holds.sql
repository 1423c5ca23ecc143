-- What batches that were passed on hold of budgets until they are charged, in micro-dollars. `scope` is `user` or `ceiling`.

CREATE TABLE otari_batch_holds (
    provider TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (provider, batch_id, scope, scope_id)
) STRICT;
