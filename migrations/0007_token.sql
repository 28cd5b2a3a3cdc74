-- One row for each issued token, until the token expires. `lineage` lists the tokens from which the token was made, root
-- first. No foreign keys: every exchange writes here, and the table must be able to move to another database.
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
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz,
    -- The epoch in which the token was recorded.
    created_epoch bigint NOT NULL DEFAULT 0,
    -- The key that signed the client's assertion, if the client authenticated with an assertion.
    auth_key      text,
    -- Number of the status list * 2^20 + index in the list.
    status_index  bigint
);
-- Rows expire about in the order of writing, which a block range index describes in very little space.
CREATE INDEX issued_token_expiry ON issued_token USING brin (expires_at) WITH (pages_per_range = 16);
CREATE INDEX issued_token_of_delegation ON issued_token (delegation_id, expires_at) WHERE delegation_id IS NOT NULL;
CREATE INDEX issued_token_of_client ON issued_token (client_id, expires_at) WHERE delegation_id IS NULL;
CREATE INDEX issued_token_revoked ON issued_token (jti) WHERE revoked_at IS NOT NULL;
-- Status lists, too, are used in the order of writing.
CREATE INDEX issued_token_status_index ON issued_token USING brin (status_index) WITH (pages_per_range = 16);
GRANT SELECT, INSERT, UPDATE (revoked_at), DELETE ON issued_token TO actchain_server;

-- Numbers of blocks of indexes in status lists; a server takes a number when its block is used up.
CREATE SEQUENCE status_block MINVALUE 0 START 0;
GRANT USAGE, SELECT ON SEQUENCE status_block TO actchain_server;

-- A token with its own problem, if any. The tokens from which it was made and its delegation apply in addition.
CREATE VIEW token_status AS
    SELECT t.*,
           CASE WHEN t.revoked_at IS NOT NULL THEN 'token_revoked'
                WHEN c.revocation_epoch >= t.created_epoch OR k.cutoff_epoch >= t.created_epoch THEN 'principal_revoked'
                WHEN k.deactivated_at IS NOT NULL THEN 'agent_deactivated'
                WHEN EXISTS (SELECT FROM removed_key r WHERE r.client_id = t.client_id AND r.jkt IN (t.jkt, t.auth_key)
                                                         AND r.removed_epoch >= t.created_epoch) THEN 'key_removed'
                WHEN k.disabled_at IS NOT NULL THEN 'actor_disabled'
           END AS problem
    FROM issued_token t
    LEFT JOIN principal_revocation c ON c.iss = t.subject_iss AND c.sub = t.subject_sub
    LEFT JOIN client k ON k.client_id = t.client_id;
GRANT SELECT ON token_status TO actchain_server;
