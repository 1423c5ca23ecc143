-- Rate limits that gateways have together: when each bucket will be empty, in nanoseconds since 1970, and what each
-- gateway has under way. Not logged: what a crash of the server takes away is a minute's count, and they are written often.

CREATE UNLOGGED TABLE otari_rate_limits (
    subject varchar PRIMARY KEY,
    tat_ns bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE otari_rate_places (
    subject varchar NOT NULL,
    gateway_id varchar NOT NULL,
    under_way integer NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (subject, gateway_id)
) WITH (fillfactor = 50);
