-- Usage at size: an index for each page that is asked for, and sums of whole hours, days and weeks, so that a summary of months
-- reads thousands of rows and not millions.

-- These are the beginnings of longer ones, which the foreign keys use too.
DROP INDEX IF EXISTS ix_usage_logs_api_key_id;
DROP INDEX IF EXISTS ix_usage_logs_user_id;

CREATE INDEX ix_usage_logs_api_key_id_timestamp ON usage_logs (api_key_id, timestamp);
CREATE INDEX ix_usage_logs_model_timestamp ON usage_logs (model, timestamp);
CREATE INDEX ix_usage_logs_provider_timestamp ON usage_logs (provider, timestamp);
CREATE INDEX ix_usage_logs_endpoint_timestamp ON usage_logs (endpoint, timestamp);
CREATE INDEX ix_usage_logs_request_group_id ON usage_logs (request_group_id);
-- The usual value is not worth an index: the one on the time finds it at once.
CREATE INDEX ix_usage_logs_unusual_status ON usage_logs (status, timestamp) WHERE status <> 'success';
CREATE INDEX ix_usage_logs_unusual_user_id ON usage_logs (user_id, status, timestamp) WHERE status <> 'success';
CREATE INDEX ix_usage_logs_unusual_api_key_id ON usage_logs (api_key_id, status, timestamp)
    WHERE status <> 'success';
CREATE INDEX ix_usage_logs_unusual_model ON usage_logs (model, status, timestamp) WHERE status <> 'success';
CREATE INDEX ix_usage_logs_error_code ON usage_logs (status_code, timestamp) WHERE status = 'error';
CREATE INDEX ix_usage_logs_unpriced ON usage_logs (timestamp) WHERE cost IS NULL;
CREATE INDEX ix_usage_logs_uncounted ON usage_logs (timestamp) WHERE counts_toward_budget = 0;
CREATE INDEX ix_usage_logs_imported ON usage_logs (source, timestamp) WHERE source <> 'gateway';
CREATE INDEX ix_usage_logs_source_label ON usage_logs (source_label, timestamp) WHERE source_label IS NOT NULL;

-- Everything of an hour, six hours, a day or a week (`grain`). `row_count` counts absorbed attempts too, `requests` does not.
CREATE TABLE usage_rollups (
    grain TEXT NOT NULL,
    bucket TEXT NOT NULL,
    row_count INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    latency_count INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    billed_input_tokens INTEGER NOT NULL,
    billed_output_tokens INTEGER NOT NULL,
    PRIMARY KEY (grain, bucket)
) STRICT, WITHOUT ROWID;

-- The same per value of one column. Never per combination: that would be as many rows as there are calls.
CREATE TABLE usage_rollup_groups (
    grain TEXT NOT NULL,
    bucket TEXT NOT NULL,
    dimension TEXT NOT NULL,
    key TEXT,
    row_count INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    tokens INTEGER NOT NULL
) STRICT;
CREATE INDEX ix_usage_rollup_groups_bucket ON usage_rollup_groups (grain, dimension, bucket);

-- Hours whose sums are not those of their rows.
CREATE TABLE usage_rollup_marks (hour TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO usage_rollup_marks (hour) SELECT DISTINCT substr(timestamp, 1, 13) || ':00:00.000000' FROM usage_logs;

-- In the database, so that rows that are written or removed by hand count too.
CREATE TRIGGER otari_usage_inserted AFTER INSERT ON usage_logs BEGIN
    INSERT OR IGNORE INTO usage_rollup_marks (hour) VALUES (substr(NEW.timestamp, 1, 13) || ':00:00.000000');
END;
CREATE TRIGGER otari_usage_deleted AFTER DELETE ON usage_logs BEGIN
    INSERT OR IGNORE INTO usage_rollup_marks (hour) VALUES (substr(OLD.timestamp, 1, 13) || ':00:00.000000');
END;
-- Not for `user_id` and `api_key_id`: they change when a key goes, and whoever reads the sums leaves out keys that are
-- gone.
CREATE TRIGGER otari_usage_changed AFTER UPDATE OF timestamp, model, provider, endpoint, prompt_tokens,
    completion_tokens, total_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, cost, status,
    status_code, latency_ms, source, source_label ON usage_logs BEGIN
    INSERT OR IGNORE INTO usage_rollup_marks (hour) VALUES (substr(OLD.timestamp, 1, 13) || ':00:00.000000');
    INSERT OR IGNORE INTO usage_rollup_marks (hour) VALUES (substr(NEW.timestamp, 1, 13) || ':00:00.000000');
END;
