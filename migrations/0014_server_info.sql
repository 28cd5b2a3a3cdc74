-- The issuer under which this database was last served, and the process that served it: commands use the same issuer.
CREATE TABLE server_info (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    issuer     text NOT NULL,
    listen     text NOT NULL,
    pid        bigint NOT NULL,
    started_at timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON server_info TO actchain_server;
