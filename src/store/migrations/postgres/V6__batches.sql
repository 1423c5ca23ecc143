-- Batches of calls: whose they are, and what became of them. A batch with an `upstream_id` is its provider's; the items of
-- the others are run by the gateway, each by whoever has leased it.

CREATE TABLE otari_batches (
    provider varchar NOT NULL,
    id varchar NOT NULL,
    upstream_id varchar,
    user_id varchar,
    api_key_id varchar,
    selector varchar NOT NULL,
    model varchar NOT NULL,
    endpoint varchar NOT NULL,
    completion_window varchar NOT NULL,
    metadata text,
    input_file_id varchar,
    status varchar NOT NULL,
    created_at timestamptz NOT NULL,
    in_progress_at timestamptz,
    cancelling_at timestamptz,
    ended_at timestamptz,
    expires_at timestamptz,
    total bigint NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    next_poll_at timestamptz,
    accounted_at timestamptz,
    prompt_tokens bigint,
    completion_tokens bigint,
    cost numeric(18, 6),
    PRIMARY KEY (provider, id)
);
CREATE INDEX ix_otari_batches_id ON otari_batches (id);
CREATE INDEX ix_otari_batches_user ON otari_batches (user_id, created_at);
CREATE INDEX ix_otari_batches_poll ON otari_batches (next_poll_at) WHERE next_poll_at IS NOT NULL;

CREATE TABLE otari_batch_items (
    batch_id varchar NOT NULL,
    position bigint NOT NULL,
    custom_id varchar NOT NULL,
    body text NOT NULL,
    is_done boolean NOT NULL DEFAULT false,
    attempts bigint NOT NULL DEFAULT 0,
    status_code integer,
    result text,
    error text,
    lease_owner varchar,
    lease_until timestamptz,
    not_before timestamptz,
    PRIMARY KEY (batch_id, position)
);
CREATE INDEX ix_otari_batch_items_open ON otari_batch_items (position) WHERE NOT is_done;
