-- The whole life of a delegation: asked for, approved, limited in more ways, and its end recorded.
ALTER TABLE delegation
    ADD COLUMN capability_ceiling    text,
    ADD COLUMN ceremony_required_for text[] NOT NULL DEFAULT '{}',
    ADD COLUMN reason                text,
    ADD COLUMN agent                 jsonb,
    -- Who asked for it; absent where an operator declared it or a token led to it.
    ADD COLUMN requested_by_iss      text,
    ADD COLUMN requested_by_sub      text,
    -- Seconds from its approval on, as long as it waits for one.
    ADD COLUMN requested_ttl              integer,
    -- The key that its agent wants to change to, as a JWK, until the delegator has confirmed it.
    ADD COLUMN pending_jwk             jsonb,
    ADD COLUMN expiry_logged          boolean NOT NULL DEFAULT false,
    -- The epoch in which it was recorded.
    ADD COLUMN created_epoch                  bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT delegation_origin_check,
    ADD CONSTRAINT delegation_origin_check CHECK (origin IN ('declared', 'may_act', 'granted', 'requested'));
DROP INDEX delegation_of_root;
CREATE INDEX delegation_of_root ON delegation (delegator_sub, delegate, delegator_iss)
    WHERE parent IS NULL AND origin <> 'may_act';
CREATE INDEX delegation_ending ON delegation (expires_at) WHERE NOT expiry_logged;
-- What was ended and might still have tokens: status lists start from there.
CREATE INDEX delegation_revoked ON delegation (expires_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX delegation_pending_jwk ON delegation (expires_at) WHERE pending_jwk IS NOT NULL;
CREATE INDEX delegation_by_time ON delegation (requested_at, id);
CREATE INDEX delegation_by_root ON delegation (root_sub, root_iss, requested_at, id);
CREATE INDEX delegation_by_delegator ON delegation (delegator_sub, delegator_iss, requested_at, id);
CREATE INDEX delegation_by_delegate ON delegation (delegate, requested_at, id);

ALTER TABLE delegation_usage
    -- When a reported command took the last use. An exchange that takes it leaves what it gave.
    ADD COLUMN exhausted_at timestamptz;
CREATE INDEX delegation_exhausted ON delegation_usage (delegation_id) WHERE exhausted_at IS NOT NULL;

-- A delegation with all that its own state follows from. What is above it counts besides.
CREATE VIEW delegation_status AS
    SELECT d.*, coalesce(u.uses, 0) AS uses, u.exhausted_at,
           coalesce(greatest(c.revocation_epoch, k.cutoff_epoch) >= d.created_epoch, false) AS principal_revoked
    FROM delegation d
    LEFT JOIN delegation_usage u ON u.delegation_id = d.id
    LEFT JOIN principal_revocation c ON c.iss = d.delegator_iss AND c.sub = d.delegator_sub
    LEFT JOIN client k ON k.client_id = d.delegate;
GRANT SELECT ON delegation_status TO actchain_server;

-- The state that counts: its own where that is final, else that of the first above it that is not active. The same as
-- `Path::state` in the program, for searching.
CREATE FUNCTION delegation_state(of_path text[], at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    -- A parameter that is called like a column would be taken for the column.
    SELECT coalesce((
        SELECT s.state FROM (
            SELECT a.id = of_path[cardinality(of_path)] AS own, cardinality(a.path) AS depth,
                   CASE WHEN a.revoked_at IS NOT NULL OR a.principal_revoked THEN 'revoked'
                        WHEN a.expires_at <= at OR a.uses >= a.max_uses THEN 'expired'
                        WHEN a.activated_at IS NULL OR a.pending_jwk IS NOT NULL THEN 'requested' END AS state
            FROM delegation_status a WHERE a.id = ANY (of_path)
        ) s WHERE s.state IS NOT NULL ORDER BY (s.own AND s.state <> 'requested') DESC, s.depth LIMIT 1
    ), 'active')
$$;
GRANT EXECUTE ON FUNCTION delegation_state TO actchain_server;
