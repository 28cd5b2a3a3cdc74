-- Revocations of principals and keys, besides those in the rows of delegations, clients and tokens: one row revokes
-- everything that was derived. A writer of these tables has the exclusive authority lock (an advisory lock that every batch
-- of the ledger shares), so that no concurrent exchange misses a revocation.

-- Grows with every change that can revoke a token: a result that was computed at one number is valid until the number
-- changes. Under the authority lock, the number also orders events. Times cannot: each server has its own clock, and reads
-- it before it takes the lock.
CREATE TABLE revocation_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    number    bigint NOT NULL,
    -- After a backup was restored: tokens that were recorded up to this epoch are revoked, and all indexes of status lists
    -- below this number are invalid. Tokens of the lost part of the database have such an index. Null if no backup was.
    restored_epoch        bigint,
    restored_status_index bigint
);
INSERT INTO revocation_epoch (number) VALUES (1);
GRANT SELECT, UPDATE ON revocation_epoch TO actchain_server;

-- Whether a revoke-all or the removal of a key covers what was recorded in an epoch. Null if there was none.
CREATE FUNCTION revocation_covers(revocation_epoch bigint, created_epoch bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN revocation_epoch >= created_epoch;

-- Whether a problem of a token or delegation can end: as long as a client is disabled, or the delegator has not confirmed. All
-- other problems are final. Null where there is no problem.
CREATE FUNCTION is_suspension(problem text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN problem IN ('actor_disabled', 'requested');

-- The last revocation of each principal. The server's role cannot assign a revocation to another principal.
CREATE TABLE principal_revocation (
    iss              text NOT NULL,
    sub              text NOT NULL,
    -- Tokens of other issuers are revoked if they were issued up to this time.
    at               timestamptz NOT NULL,
    -- Tokens and delegations of this server are revoked if they were recorded up to this epoch.
    revocation_epoch bigint NOT NULL,
    reason           text NOT NULL,
    PRIMARY KEY (iss, sub)
);
GRANT SELECT, INSERT, UPDATE (at, revocation_epoch, reason) ON principal_revocation TO actchain_server;

-- All revocations of each principal with their times: the first one that applies to a delegation revoked the delegation.
CREATE TABLE principal_revocation_history (
    iss              text NOT NULL,
    sub              text NOT NULL,
    revocation_epoch bigint NOT NULL,
    at               timestamptz NOT NULL,
    -- Set if the principal is a client of this server.
    client_id        text,
    PRIMARY KEY (iss, sub, revocation_epoch)
);
CREATE INDEX principal_revocation_of_client ON principal_revocation_history (client_id, revocation_epoch)
    WHERE client_id IS NOT NULL;
GRANT SELECT, INSERT ON principal_revocation_history TO actchain_server;

-- A removed key stays removed until an operator restores the key. The row remains: tokens that were issued before the
-- removal stay revoked. The server's role cannot assign a removal to another client or key.
CREATE TABLE removed_key (
    client_id     text NOT NULL REFERENCES client,
    jkt           text NOT NULL,
    removed_at    timestamptz NOT NULL,
    removed_epoch bigint NOT NULL,
    restored_at   timestamptz,
    PRIMARY KEY (client_id, jkt)
);
CREATE INDEX removed_key_by_jkt ON removed_key (jkt) WHERE restored_at IS NULL;
GRANT SELECT, INSERT, UPDATE (removed_at, removed_epoch, restored_at) ON removed_key TO actchain_server;
