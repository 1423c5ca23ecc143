-- What was changed through the management API, by whom and from where. Written in the transaction of the change. `before`
-- and `after` are JSON as the management API shows it; null: it was not there. `actor_id` is never a secret.

CREATE TABLE otari_audit_log (
    id varchar PRIMARY KEY,
    at timestamptz NOT NULL,
    actor varchar NOT NULL,
    actor_id varchar,
    address varchar,
    request_id varchar NOT NULL,
    action varchar NOT NULL,
    object_kind varchar NOT NULL,
    object_id varchar NOT NULL,
    before json,
    after json
);
CREATE INDEX ix_otari_audit_log_at ON otari_audit_log (at, id COLLATE "C");
CREATE INDEX ix_otari_audit_log_object ON otari_audit_log (object_kind, object_id, at);
