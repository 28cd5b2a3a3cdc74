-- Refresh tokens of agents: authority to act for the root subject of a delegation without a token of the subject. The token
-- itself is not stored. An agent has one refresh token for each delegation, key and grant: a later exchange with the same
-- grant answers the same token. Whether the token is revoked is a fact of its row in `issued_token`, which has the same id:
-- what is made with a refresh token has that id in its lineage.
CREATE TABLE refresh_token (
    id            uuid PRIMARY KEY,
    -- SHA-256 of the token.
    digest        bytea NOT NULL UNIQUE,
    delegation_id text NOT NULL REFERENCES delegation ON DELETE CASCADE,
    client_id     text NOT NULL,
    subject_iss   text NOT NULL,
    subject_sub   text NOT NULL,
    jkt           text NOT NULL,
    -- SHA-256 of what was granted, without the login.
    grant_hash    bytea NOT NULL,
    -- The chain and the limits of the subject token of the exchange.
    granted       jsonb NOT NULL,
    login         jsonb NOT NULL,
    txn           uuid NOT NULL,
    session_id    text,
    issued_at     timestamptz NOT NULL,
    last_used_at  timestamptz NOT NULL,
    -- Since when another refresh token is answered in place of this one.
    ended_at      timestamptz,
    -- Rows in `issued_token` for the earlier actors, so that their keys and clients still count when their tokens are purged.
    anchors       uuid[] NOT NULL,
    mac           bytea NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX refresh_token_of_grant ON refresh_token (delegation_id, jkt, grant_hash) WHERE ended_at IS NULL;
CREATE INDEX refresh_token_of_delegation ON refresh_token (delegation_id);
CREATE INDEX refresh_token_ended ON refresh_token (ended_at) WHERE ended_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE (last_used_at, ended_at), DELETE ON refresh_token TO actchain_server;
