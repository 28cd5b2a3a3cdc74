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
    -- Number of the status list * 2^20 + index in the list. Negative for a row that is no access token: of a refresh token,
    -- or of an earlier actor of one. Such rows do not expire; they are in the lineage of tokens.
    status_index  bigint NOT NULL
);
-- Rows expire about in the order of writing, which a block range index describes in very little space.
CREATE INDEX issued_token_expiry ON issued_token USING brin (expires_at) WITH (pages_per_range = 16);
CREATE INDEX issued_token_of_delegation ON issued_token (delegation_id, expires_at) WHERE delegation_id IS NOT NULL;
CREATE INDEX issued_token_of_client ON issued_token (client_id, expires_at) WHERE delegation_id IS NULL;
CREATE INDEX issued_token_revoked ON issued_token (jti) WHERE revoked_at IS NOT NULL;
-- Refresh tokens by the tokens from which they came: they are revoked with them.
CREATE INDEX issued_token_refreshing ON issued_token USING gin (lineage) WHERE status_index < 0;
-- Status lists, too, are used in the order of writing.
CREATE INDEX issued_token_status_index ON issued_token USING brin (status_index) WITH (pages_per_range = 16);
GRANT SELECT, INSERT, UPDATE (revoked_at), DELETE ON issued_token TO actchain_server;

-- Numbers of blocks of indexes in status lists; a server takes a number when its block is used up.
CREATE SEQUENCE status_block MINVALUE 0 START 0;
GRANT USAGE, SELECT, UPDATE ON SEQUENCE status_block TO actchain_server;

-- What is wrong with a token, from its own facts: the gravest problem, or null. The tokens from which it was made and its
-- delegation apply in addition. Facts that are left out are disregarded. The only definition, for exchanges, introspection,
-- status lists and the impact of revocations. PostgreSQL replaces calls by the expression.
CREATE FUNCTION token_problem(
    created_epoch  bigint,
    revoked_at     timestamptz DEFAULT NULL,
    -- The epochs of the last revoke-all of the subject and of the client.
    subject_epoch  bigint DEFAULT NULL,
    client_epoch   bigint DEFAULT NULL,
    deactivated_at timestamptz DEFAULT NULL,
    -- Whether a key of the token was removed.
    key_removed    boolean DEFAULT false,
    disabled_at    timestamptz DEFAULT NULL,
    -- The epoch up to which a restored backup revokes tokens.
    restored_epoch bigint DEFAULT NULL
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN revoked_at IS NOT NULL THEN 'token_revoked'
                WHEN revocation_covers(restored_epoch, created_epoch) THEN 'token_revoked'
                WHEN revocation_covers(subject_epoch, created_epoch) THEN 'principal_revoked'
                WHEN revocation_covers(client_epoch, created_epoch) THEN 'principal_revoked'
                WHEN deactivated_at IS NOT NULL THEN 'agent_deactivated'
                WHEN key_removed THEN 'key_removed'
                WHEN disabled_at IS NOT NULL THEN 'actor_disabled'
           END;

-- The facts of a token, as parameters of `token_problem`.
CREATE VIEW token_facts AS
    SELECT t.jti, t.issued_at, t.created_epoch, t.revoked_at, c.revocation_epoch AS subject_epoch,
           k.cutoff_epoch AS client_epoch, k.deactivated_at,
           EXISTS (SELECT FROM removed_key r WHERE r.client_id = t.client_id AND r.jkt IN (t.jkt, t.auth_key)
                                               AND revocation_covers(r.removed_epoch, t.created_epoch)) AS key_removed,
           k.disabled_at, (SELECT e.restored_epoch FROM revocation_epoch e) AS restored_epoch
    FROM issued_token t
    LEFT JOIN principal_revocation c ON c.iss = t.subject_iss AND c.sub = t.subject_sub
    LEFT JOIN client k ON k.client_id = t.client_id;
GRANT SELECT ON token_facts TO actchain_server;

-- A token with its problem, or a problem of a token from which it was made: a final one rather than a suspension, and of the
-- oldest token. Its delegation applies in addition. `LATERAL` with `OFFSET 0` makes PostgreSQL find each token by its index,
-- in plans that are kept while the table grows, too.
CREATE VIEW token_status AS
    SELECT t.jti, t.delegation_id,
           (SELECT s.problem FROM unnest(t.lineage || t.jti) AS input (jti)
            CROSS JOIN LATERAL (
                SELECT f.issued_at,
                       token_problem(f.created_epoch, f.revoked_at, f.subject_epoch, f.client_epoch, f.deactivated_at,
                                     f.key_removed, f.disabled_at, f.restored_epoch) AS problem
                FROM token_facts f WHERE f.jti = input.jti OFFSET 0) s
            WHERE s.problem IS NOT NULL
            ORDER BY is_suspension(s.problem), s.issued_at LIMIT 1) AS problem
    FROM issued_token t;
GRANT SELECT ON token_status TO actchain_server;
