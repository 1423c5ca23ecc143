-- As in PostgreSQL, so that both have the same tables. A SQLite database has one gateway, which keeps its limits in memory.

CREATE TABLE otari_rate_limits (
    subject TEXT PRIMARY KEY,
    tat_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE otari_rate_places (
    subject TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    under_way INTEGER NOT NULL,
    seen_at TEXT NOT NULL,
    PRIMARY KEY (subject, gateway_id)
) STRICT;
