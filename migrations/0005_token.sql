-- One row for each token that was issued, kept until it ends. `lineage` lists the tokens that it was made from, root
-- first. No foreign keys: this is the hot path, and it must be able to move to a shard of its own.
CREATE TABLE issued_token (
    jti           uuid PRIMARY KEY,
    parent        uuid,
    lineage       uuid[] NOT NULL,
    txn           uuid NOT NULL,
    client_id     text NOT NULL,
    subject_iss   text NOT NULL,
    subject_sub   text NOT NULL,
    delegation_id text,
    jkt           text,
    kid           text NOT NULL,
    scope         text NOT NULL,
    audience      text[] NOT NULL,
    issued_at     timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL
);
-- Rows end about in the order in which they were written, which a block range index describes almost for free.
CREATE INDEX issued_token_expiry ON issued_token USING brin (expires_at) WITH (pages_per_range = 16);
GRANT SELECT, INSERT, DELETE ON issued_token TO actchain_server;
