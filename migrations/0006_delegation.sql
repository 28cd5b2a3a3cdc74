-- A row contains facts; the state is derived from them. `path` lists the ancestors, root first, and the delegation itself
-- last, so that one revoked row revokes all descendants. A limit that is null does not restrict; an empty one allows nothing.
CREATE TABLE delegation (
    id                    text PRIMARY KEY,
    path                  text[] NOT NULL,
    parent                text REFERENCES delegation,
    root_iss              text NOT NULL,
    root_sub              text NOT NULL,
    delegator_iss         text NOT NULL,
    delegator_sub         text NOT NULL,
    delegate              text NOT NULL REFERENCES client,
    scopes                text[],
    audiences             text[],
    authorization_details jsonb,
    max_depth             integer,
    max_uses              bigint,
    origin                text NOT NULL CHECK (origin IN ('declared', 'may_act', 'granted', 'requested')),
    requested_at          timestamptz NOT NULL,
    activated_at          timestamptz,
    expires_at            timestamptz NOT NULL,
    revoked_at            timestamptz,
    revoke_reason         text,
    -- Whether the delegate may get refresh tokens, and act without a token of the delegator.
    offline_access        boolean NOT NULL DEFAULT false,
    capability_ceiling    text,
    ceremony_required_for text[] NOT NULL DEFAULT '{}',
    reason                text,
    agent                 jsonb,
    -- The principal that requested the delegation; null if an operator declared it or a token led to it.
    requested_by_iss      text,
    requested_by_sub      text,
    -- Seconds from the approval on, while the delegation waits for an approval.
    requested_ttl         integer,
    -- The new key of the agent, as a JWK, until the delegator has confirmed it.
    pending_jwk           jsonb,
    -- Time since which the delegation waits for a review by its delegator. Then it may not be used.
    suspended_at          timestamptz,
    expiry_logged         boolean NOT NULL DEFAULT false,
    -- The epoch in which the delegation was recorded.
    created_epoch         bigint NOT NULL DEFAULT 0,
    mac                   bytea,
    CHECK (path[cardinality(path)] = id)
);
CREATE INDEX delegation_of_root ON delegation (delegator_sub, delegate, delegator_iss, expires_at)
    WHERE parent IS NULL AND origin <> 'may_act';
CREATE INDEX delegation_of_parent ON delegation (parent, delegate, expires_at) WHERE parent IS NOT NULL;
-- Delegations that tokens led to expire with their tokens, and are then deleted.
CREATE INDEX delegation_to_forget ON delegation (expires_at) WHERE origin = 'may_act';
CREATE INDEX delegation_ending ON delegation (expires_at) WHERE NOT expiry_logged;
-- Revoked delegations that can still have unexpired tokens: status lists are generated from these.
CREATE INDEX delegation_revoked ON delegation (expires_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX delegation_pending_jwk ON delegation (expires_at) WHERE pending_jwk IS NOT NULL;
CREATE INDEX delegation_suspended ON delegation (expires_at) WHERE suspended_at IS NOT NULL;
CREATE INDEX delegation_by_time ON delegation (requested_at, id);
CREATE INDEX delegation_by_root ON delegation (root_sub, root_iss, requested_at, id);
CREATE INDEX delegation_by_delegator ON delegation (delegator_sub, delegator_iss, requested_at, id);
CREATE INDEX delegation_by_delegate ON delegation (delegate, requested_at, id);
GRANT SELECT, INSERT, UPDATE, DELETE ON delegation TO actchain_server;

-- The uses of each delegation, with or without a limit. A table of its own, so that counting never updates the row that
-- all descendants read.
CREATE TABLE delegation_usage (
    delegation_id text PRIMARY KEY REFERENCES delegation ON DELETE CASCADE,
    uses          bigint NOT NULL,
    -- Time at which a reported command took the last use. An exchange that takes the last use leaves its token active.
    exhausted_at  timestamptz,
    -- Time at which an exchange or a reported command took the last use.
    used_up_at    timestamptz
) WITH (fillfactor = 50);
CREATE INDEX delegation_exhausted ON delegation_usage (delegation_id) WHERE exhausted_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON delegation_usage TO actchain_server;

-- Why a delegation may not be used, from its own facts: the gravest problem, or null. The problems of its ancestors apply in
-- addition. Facts that are left out are disregarded. The only definition in SQL; `DelegationRecord::check` is its equal in the
-- program. PostgreSQL replaces calls by the expression, so that a call costs nothing and uses the same indexes.
CREATE FUNCTION delegation_problem(
    at                timestamptz,
    expires_at        timestamptz,
    revoked_at        timestamptz DEFAULT NULL,
    principal_revoked boolean DEFAULT false,
    -- A reported command took the last use: tokens are no longer valid.
    exhausted_at      timestamptz DEFAULT NULL,
    -- An exchange or a reported command took the last use. By itself, it leaves tokens valid.
    used_up           boolean DEFAULT false,
    waiting           boolean DEFAULT false
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
                WHEN principal_revoked THEN 'principal_revoked'
                WHEN expires_at <= at THEN 'expired'
                WHEN exhausted_at IS NOT NULL THEN 'exhausted'
                WHEN used_up THEN 'used_up'
                WHEN waiting THEN 'requested'
           END;

-- A delegation with the facts of its own state, each with its time. The MAC is left out: readers take it from the table, whose
-- row it authenticates.
CREATE VIEW delegation_status AS
    SELECT d.id, d.path, d.parent, d.root_iss, d.root_sub, d.delegator_iss, d.delegator_sub, d.delegate, d.scopes,
           d.audiences, d.authorization_details, d.max_depth, d.max_uses, d.origin, d.requested_at, d.activated_at,
           d.expires_at, d.revoked_at, d.revoke_reason, d.capability_ceiling, d.ceremony_required_for, d.reason, d.agent,
           d.requested_by_iss, d.requested_by_sub, d.requested_ttl, d.pending_jwk, d.suspended_at, d.expiry_logged, d.created_epoch,
           d.offline_access,
           -- Null if the count is missing, which readers refuse.
           u.uses, u.exhausted_at,
           d.activated_at IS NULL OR d.pending_jwk IS NOT NULL OR d.suspended_at IS NOT NULL AS waiting,
           u.exhausted_at IS NOT NULL OR coalesce(u.uses >= d.max_uses, d.max_uses IS NOT NULL) AS used_up,
           CASE WHEN u.exhausted_at IS NOT NULL OR coalesce(u.uses >= d.max_uses, d.max_uses IS NOT NULL)
                THEN coalesce(u.used_up_at, u.exhausted_at, d.requested_at) END AS used_up_at,
           coalesce(revocation_covers(greatest(c.revocation_epoch, k.cutoff_epoch), d.created_epoch), false)
               AS principal_revoked,
           CASE WHEN revocation_covers(greatest(c.revocation_epoch, k.cutoff_epoch), d.created_epoch) THEN coalesce((
               SELECT min(h.at) FROM principal_revocation_history h
               WHERE revocation_covers(h.revocation_epoch, d.created_epoch)
                 AND ((h.iss = d.delegator_iss AND h.sub = d.delegator_sub) OR h.client_id = d.delegate)
           ), d.requested_at) END AS principal_revoked_at
    FROM delegation d
    LEFT JOIN delegation_usage u ON u.delegation_id = d.id
    LEFT JOIN principal_revocation c ON c.iss = d.delegator_iss AND c.sub = d.delegator_sub
    LEFT JOIN client k ON k.client_id = d.delegate;
GRANT SELECT ON delegation_status TO actchain_server;

-- The state: the first end on the path decides, by its time. Of two ends at the same time, an expiry comes first. A
-- delegation that was revoked itself is revoked. Equal to `DelegationPath::state` in the program; for searches. Active exactly
-- if no delegation of the path has a problem.
CREATE FUNCTION delegation_state(of_path text[], at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    -- A parameter that is called like a column would be taken for the column.
    SELECT coalesce((
        SELECT e.state FROM delegation_status a
        CROSS JOIN LATERAL (VALUES
            ('revoked', CASE WHEN a.revoked_at IS NOT NULL AND a.id = of_path[cardinality(of_path)]
                             THEN '-infinity' ELSE a.revoked_at END),
            ('revoked', a.principal_revoked_at),
            ('expired', CASE WHEN a.expires_at <= at THEN a.expires_at END),
            ('expired', a.used_up_at),
            ('requested', CASE WHEN a.waiting THEN 'infinity'::timestamptz END)
        ) e (state, since)
        WHERE a.id = ANY (of_path) AND e.since IS NOT NULL
        ORDER BY e.since, e.state LIMIT 1
    ), 'active')
$$;
GRANT EXECUTE ON FUNCTION delegation_state TO actchain_server;

-- One row for each set of delegations that can give a client the same authority: those of one delegator at the root, or
-- those below one parent. The version grows when a delegation of the set becomes active or changes, so that a server
-- notices that its cached list is old.
CREATE TABLE candidate_version (
    -- Empty at the root.
    parent        text NOT NULL,
    -- Empty below a parent.
    delegator_iss text NOT NULL,
    delegator_sub text NOT NULL,
    delegate      text NOT NULL,
    version       bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (delegate, parent, delegator_sub, delegator_iss)
) WITH (fillfactor = 80);
GRANT SELECT, INSERT, UPDATE ON candidate_version TO actchain_server;
CREATE FUNCTION raise_candidate_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.activated_at IS NOT NULL AND NEW.pending_jwk IS NULL AND NEW.revoked_at IS NULL AND NEW.origin <> 'may_act' THEN
        INSERT INTO candidate_version AS v (parent, delegator_iss, delegator_sub, delegate)
        VALUES (coalesce(NEW.parent, ''), CASE WHEN NEW.parent IS NULL THEN NEW.delegator_iss ELSE '' END,
                CASE WHEN NEW.parent IS NULL THEN NEW.delegator_sub ELSE '' END, NEW.delegate)
        ON CONFLICT (delegate, parent, delegator_sub, delegator_iss) DO UPDATE SET version = v.version + 1;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER delegation_is_candidate
    AFTER INSERT OR UPDATE OF activated_at, expires_at, pending_jwk, suspended_at, scopes, audiences, authorization_details,
                              capability_ceiling, ceremony_required_for, max_depth, max_uses, offline_access
    ON delegation FOR EACH ROW EXECUTE FUNCTION raise_candidate_version();
