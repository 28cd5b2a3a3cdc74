-- Results that are returned again for a repeated request under the same key.
CREATE TABLE idempotency (
    caller      text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    result      text NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_forget ON idempotency (expires_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency TO actchain_server;
