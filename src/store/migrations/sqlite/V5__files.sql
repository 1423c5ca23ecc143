-- Files that callers upload: the table of the reference gateway, and what we need beside it. A database that came from it and
-- was opened by an earlier otari has the table already; its rows are taken over.
CREATE TABLE IF NOT EXISTS file_objects (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    filename TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    storage_ref TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    deleted_at TEXT,
    metadata TEXT NOT NULL
);
-- `sha256`: of the bytes, lower-case hexadecimal; null for rows of the reference. `claimed_until`: a gateway removes the bytes
-- now. `reclaimed_at`: they are removed.
CREATE TABLE otari_file_objects (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    filename TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    storage_ref TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    deleted_at TEXT,
    metadata TEXT NOT NULL,
    sha256 TEXT,
    claimed_until TEXT,
    reclaimed_at TEXT
) STRICT;
INSERT INTO otari_file_objects (id, user_id, filename, mime_type, bytes, purpose, storage_ref, created_at, expires_at,
    deleted_at, metadata)
    SELECT id, user_id, filename, mime_type, bytes, purpose, storage_ref, created_at, expires_at, deleted_at, metadata
    FROM file_objects;
DROP TABLE file_objects;
ALTER TABLE otari_file_objects RENAME TO file_objects;
CREATE INDEX ix_file_objects_user_id ON file_objects (user_id);
CREATE INDEX ix_file_objects_created_at ON file_objects (created_at);
CREATE INDEX ix_file_objects_deleted_at ON file_objects (deleted_at);
-- A user's list, and what is to be removed.
CREATE INDEX ix_file_objects_user_id_created_at ON file_objects (user_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX ix_file_objects_dropped ON file_objects (deleted_at) WHERE reclaimed_at IS NULL AND deleted_at IS NOT NULL;
CREATE INDEX ix_file_objects_expiring ON file_objects (expires_at) WHERE reclaimed_at IS NULL AND expires_at IS NOT NULL;
