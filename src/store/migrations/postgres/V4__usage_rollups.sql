-- Usage at size: an index for each page that is asked for, and sums of whole hours, days and weeks, so that a summary of months
-- reads thousands of rows and not millions.

-- These are the beginnings of longer ones, which the foreign keys use too.
DROP INDEX IF EXISTS ix_usage_logs_api_key_id;
DROP INDEX IF EXISTS ix_usage_logs_user_id;

CREATE INDEX IF NOT EXISTS ix_usage_logs_api_key_id_timestamp ON usage_logs (api_key_id, "timestamp");
CREATE INDEX IF NOT EXISTS ix_usage_logs_model_timestamp ON usage_logs (model, "timestamp");
CREATE INDEX IF NOT EXISTS ix_usage_logs_provider_timestamp ON usage_logs (provider, "timestamp");
CREATE INDEX IF NOT EXISTS ix_usage_logs_endpoint_timestamp ON usage_logs (endpoint, "timestamp");
CREATE INDEX IF NOT EXISTS ix_usage_logs_request_group_id ON usage_logs (request_group_id);
-- The usual value is not worth an index: the one on the time finds it at once.
CREATE INDEX IF NOT EXISTS ix_usage_logs_unusual_status ON usage_logs (status, "timestamp") WHERE status <> 'success';
CREATE INDEX IF NOT EXISTS ix_usage_logs_unusual_user_id ON usage_logs (user_id, status, "timestamp") WHERE status <> 'success';
CREATE INDEX IF NOT EXISTS ix_usage_logs_unusual_api_key_id ON usage_logs (api_key_id, status, "timestamp")
    WHERE status <> 'success';
CREATE INDEX IF NOT EXISTS ix_usage_logs_unusual_model ON usage_logs (model, status, "timestamp") WHERE status <> 'success';
CREATE INDEX IF NOT EXISTS ix_usage_logs_error_code ON usage_logs (status_code, "timestamp") WHERE status = 'error';
CREATE INDEX IF NOT EXISTS ix_usage_logs_unpriced ON usage_logs ("timestamp") WHERE cost IS NULL;
CREATE INDEX IF NOT EXISTS ix_usage_logs_uncounted ON usage_logs ("timestamp") WHERE NOT counts_toward_budget;
CREATE INDEX IF NOT EXISTS ix_usage_logs_imported ON usage_logs (source, "timestamp") WHERE source <> 'gateway';
CREATE INDEX IF NOT EXISTS ix_usage_logs_source_label ON usage_logs (source_label, "timestamp")
    WHERE source_label IS NOT NULL;

-- Everything of an hour, six hours, a day or a week (`grain`). `row_count` counts absorbed attempts too, `requests` does not.
CREATE TABLE IF NOT EXISTS usage_rollups (
    grain varchar NOT NULL,
    bucket timestamptz NOT NULL,
    row_count bigint NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    cost numeric(24, 6) NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    total_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    cache_write_1h_tokens bigint NOT NULL,
    latency_ms bigint NOT NULL,
    latency_count bigint NOT NULL,
    unpriced bigint NOT NULL,
    billed_input_tokens bigint NOT NULL,
    billed_output_tokens bigint NOT NULL,
    PRIMARY KEY (grain, bucket)
);

-- The same per value of one column. Never per combination: that would be as many rows as there are calls.
CREATE TABLE IF NOT EXISTS usage_rollup_groups (
    grain varchar NOT NULL,
    bucket timestamptz NOT NULL,
    dimension varchar NOT NULL,
    key varchar,
    row_count bigint NOT NULL,
    requests bigint NOT NULL,
    cost numeric(24, 6) NOT NULL,
    tokens bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_usage_rollup_groups_bucket ON usage_rollup_groups (grain, dimension, bucket);

-- Hours whose sums are not those of their rows. A mark is written by the transaction that writes the rows, and taken
-- away by the one that sums them up; nobody waits for anybody: who sees the rows sees the mark.
CREATE TABLE IF NOT EXISTS usage_rollup_marks (hour timestamptz NOT NULL);
CREATE INDEX IF NOT EXISTS ix_usage_rollup_marks_hour ON usage_rollup_marks (hour);
INSERT INTO usage_rollup_marks (hour) SELECT DISTINCT date_trunc('hour', "timestamp", 'UTC') FROM usage_logs;

-- In the database, so that rows that are written or removed by hand count too.
CREATE FUNCTION otari_usage_marked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_rollup_marks (hour) SELECT DISTINCT date_trunc('hour', "timestamp", 'UTC') FROM touched;
    RETURN NULL;
END
$$;
CREATE TRIGGER otari_usage_inserted AFTER INSERT ON usage_logs REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION otari_usage_marked();
CREATE TRIGGER otari_usage_deleted AFTER DELETE ON usage_logs REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION otari_usage_marked();

-- Not for `user_id` and `api_key_id`: they change when a key goes, and whoever reads the sums leaves out keys that are
-- gone.
CREATE FUNCTION otari_usage_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_rollup_marks (hour) VALUES (date_trunc('hour', OLD."timestamp", 'UTC')),
        (date_trunc('hour', NEW."timestamp", 'UTC'));
    RETURN NULL;
END
$$;
CREATE TRIGGER otari_usage_changed AFTER UPDATE OF "timestamp", model, provider, endpoint, prompt_tokens,
    completion_tokens, total_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, cost, status,
    status_code, latency_ms, source, source_label ON usage_logs FOR EACH ROW EXECUTE FUNCTION otari_usage_changed();
