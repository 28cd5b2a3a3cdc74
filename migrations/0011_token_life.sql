-- What relying parties are told about a token.
ALTER TABLE issued_token
    ADD COLUMN revoked_at   timestamptz,
    -- The epoch in which it was recorded.
    ADD COLUMN created_epoch         bigint NOT NULL DEFAULT 0,
    -- The key that signed the client's assertion, where it authenticated by one.
    ADD COLUMN auth_key     text,
    -- List number * 2^20 + index in the list.
    ADD COLUMN status_index bigint;
CREATE INDEX issued_token_of_delegation ON issued_token (delegation_id, expires_at) WHERE delegation_id IS NOT NULL;
CREATE INDEX issued_token_of_client ON issued_token (client_id, expires_at) WHERE delegation_id IS NULL;
CREATE INDEX issued_token_revoked ON issued_token (jti) WHERE revoked_at IS NOT NULL;
-- Lists follow one another in the order of writing, which a block range index describes almost for free.
CREATE INDEX issued_token_status_index ON issued_token USING brin (status_index) WITH (pages_per_range = 16);
GRANT UPDATE (revoked_at) ON issued_token TO actchain_server;
-- Numbers of blocks of places in status lists; a server takes one whenever it runs out.
CREATE SEQUENCE status_block MINVALUE 0 START 0;
GRANT USAGE, SELECT ON SEQUENCE status_block TO actchain_server;

-- A token with what is wrong with it by itself; the tokens it was made from and its delegation count besides.
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
