-- Files that callers upload: the table of the reference gateway, and what we need beside it. IF NOT EXISTS, because a database
-- that comes from it has some of these already.
CREATE TABLE IF NOT EXISTS file_objects (
    id varchar PRIMARY KEY,
    user_id varchar NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    filename varchar NOT NULL,
    mime_type varchar NOT NULL,
    bytes bigint NOT NULL,
    purpose varchar NOT NULL,
    storage_ref varchar NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    deleted_at timestamptz,
    metadata json NOT NULL
);
-- The reference's holds two gigabytes.
ALTER TABLE file_objects ALTER COLUMN bytes TYPE bigint;
-- `sha256`: of the bytes, lower-case hexadecimal; null for rows of the reference. `claimed_until`: a gateway removes the bytes
-- now. `reclaimed_at`: they are removed.
ALTER TABLE file_objects ADD COLUMN IF NOT EXISTS sha256 varchar;
ALTER TABLE file_objects ADD COLUMN IF NOT EXISTS claimed_until timestamptz;
ALTER TABLE file_objects ADD COLUMN IF NOT EXISTS reclaimed_at timestamptz;
CREATE INDEX IF NOT EXISTS ix_file_objects_user_id ON file_objects (user_id);
CREATE INDEX IF NOT EXISTS ix_file_objects_created_at ON file_objects (created_at);
CREATE INDEX IF NOT EXISTS ix_file_objects_deleted_at ON file_objects (deleted_at);
-- A user's list, and what is to be removed.
CREATE INDEX IF NOT EXISTS ix_file_objects_user_id_created_at ON file_objects (user_id, created_at, id)
    WHERE deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS ix_file_objects_dropped ON file_objects (deleted_at)
    WHERE reclaimed_at IS NULL AND deleted_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_file_objects_expiring ON file_objects (expires_at)
    WHERE reclaimed_at IS NULL AND expires_at IS NOT NULL;
