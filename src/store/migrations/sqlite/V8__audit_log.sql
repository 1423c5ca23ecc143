-- What was changed through the management API, by whom and from where. Written in the transaction of the change. `before`
-- and `after` are JSON as the management API shows it; null: it was not there. `actor_id` is never a secret.

CREATE TABLE otari_audit_log (
    id TEXT PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    actor_id TEXT,
    address TEXT,
    request_id TEXT NOT NULL,
    action TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_id TEXT NOT NULL,
    before TEXT,
    after TEXT
) STRICT;
CREATE INDEX ix_otari_audit_log_at ON otari_audit_log (at, id);
CREATE INDEX ix_otari_audit_log_object ON otari_audit_log (object_kind, object_id, at);
