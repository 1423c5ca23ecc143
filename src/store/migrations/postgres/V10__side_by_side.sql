-- What two processes on one SQLite file need of each other has always been here; only SQLite asks each other by a table.

CREATE TABLE otari_lease_recalls (
    seq bigserial PRIMARY KEY,
    at_us bigint NOT NULL,
    gateway_id varchar NOT NULL,
    scope varchar NOT NULL,
    scope_id varchar NOT NULL
);
