-- Batches of calls: whose they are, and what became of them. A batch with an `upstream_id` is its provider's; the items of
-- the others are run by the gateway, each by whoever has leased it.

CREATE TABLE otari_batches (
    provider TEXT NOT NULL,
    id TEXT NOT NULL,
    upstream_id TEXT,
    user_id TEXT,
    api_key_id TEXT,
    selector TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    metadata TEXT,
    input_file_id TEXT,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    in_progress_at TEXT,
    cancelling_at TEXT,
    ended_at TEXT,
    expires_at TEXT,
    total INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    next_poll_at TEXT,
    accounted_at TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost INTEGER,
    PRIMARY KEY (provider, id)
) STRICT;
CREATE INDEX ix_otari_batches_id ON otari_batches (id);
CREATE INDEX ix_otari_batches_user ON otari_batches (user_id, created_at);
CREATE INDEX ix_otari_batches_poll ON otari_batches (next_poll_at) WHERE next_poll_at IS NOT NULL;

CREATE TABLE otari_batch_items (
    batch_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    body TEXT NOT NULL,
    is_done INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    status_code INTEGER,
    result TEXT,
    error TEXT,
    lease_owner TEXT,
    lease_until TEXT,
    not_before TEXT,
    PRIMARY KEY (batch_id, position)
) STRICT;
CREATE INDEX ix_otari_batch_items_open ON otari_batch_items (position) WHERE is_done = 0;
