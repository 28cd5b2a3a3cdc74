-- Answers that are given again to whoever repeats a request under the same key.
CREATE TABLE idempotency (
    caller      text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    status      smallint NOT NULL,
    location    text,
    body        text NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_forget ON idempotency (expires_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency TO actchain_server;
