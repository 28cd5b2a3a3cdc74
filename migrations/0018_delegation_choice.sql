-- Uses are counted with and without a limit: each delegation has a row.
ALTER TABLE delegation_usage
    DROP CONSTRAINT delegation_usage_delegation_id_fkey,
    ADD FOREIGN KEY (delegation_id) REFERENCES delegation ON DELETE CASCADE,
    -- When the last use was taken, by an exchange or by a reported command.
    ADD COLUMN used_up_at timestamptz;
UPDATE delegation_usage u SET used_up_at = coalesce(u.exhausted_at, least(now(), d.expires_at))
    FROM delegation d WHERE d.id = u.delegation_id AND u.uses >= d.max_uses;
INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 0 FROM delegation ON CONFLICT DO NOTHING;

-- Every cut-off with its instant: `principal_revocation` keeps the last one only, and the first one that applies to a delegation ended it.
CREATE TABLE principal_revocation_history (
    iss       text NOT NULL,
    sub       text NOT NULL,
    revocation_epoch bigint NOT NULL,
    at        timestamptz NOT NULL,
    -- Where the principal is a client of this server.
    client_id text,
    PRIMARY KEY (iss, sub, revocation_epoch)
);
CREATE INDEX principal_revocation_of_client ON principal_revocation_history (client_id, revocation_epoch) WHERE client_id IS NOT NULL;
INSERT INTO principal_revocation_history (iss, sub, revocation_epoch, at, client_id)
    SELECT c.iss, c.sub, c.revocation_epoch, c.at, k.client_id
    FROM principal_revocation c LEFT JOIN client k ON k.client_id = c.sub AND k.cutoff_epoch = c.revocation_epoch;
GRANT SELECT, INSERT ON principal_revocation_history TO actchain_server;

-- A delegation with the facts of its own state, each end with its instant. The ends of its ancestors apply in addition.
DROP VIEW delegation_status;
CREATE VIEW delegation_status AS
    SELECT d.*, coalesce(u.uses, 0) AS uses, u.exhausted_at,
           coalesce(greatest(c.revocation_epoch, k.cutoff_epoch) >= d.created_epoch, false) AS principal_revoked,
           CASE WHEN u.uses >= d.max_uses THEN coalesce(u.used_up_at, u.exhausted_at, d.requested_at) END AS used_up_at,
           CASE WHEN greatest(c.revocation_epoch, k.cutoff_epoch) >= d.created_epoch THEN coalesce((
               SELECT min(h.at) FROM principal_revocation_history h
               WHERE h.revocation_epoch >= d.created_epoch
                 AND ((h.iss = d.delegator_iss AND h.sub = d.delegator_sub) OR h.client_id = d.delegate)
           ), d.requested_at) END AS principal_revoked_at
    FROM delegation d
    LEFT JOIN delegation_usage u ON u.delegation_id = d.id
    LEFT JOIN principal_revocation c ON c.iss = d.delegator_iss AND c.sub = d.delegator_sub
    LEFT JOIN client k ON k.client_id = d.delegate;
GRANT SELECT ON delegation_status TO actchain_server;

-- The state: the first end on the path decides, by its instant. Of two ends at one instant, an expiry comes first. A
-- delegation that was revoked itself is revoked. The same as `Path::state` in the program, for searching.
CREATE OR REPLACE FUNCTION delegation_state(of_path text[], at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    -- A parameter that is called like a column would be taken for the column.
    SELECT coalesce((
        SELECT e.state FROM delegation_status a
        CROSS JOIN LATERAL (VALUES
            ('revoked', CASE WHEN a.revoked_at IS NOT NULL AND a.id = of_path[cardinality(of_path)]
                             THEN '-infinity' ELSE a.revoked_at END),
            ('revoked', a.principal_revoked_at),
            ('expired', CASE WHEN a.expires_at <= at THEN a.expires_at END),
            ('expired', a.used_up_at),
            ('requested', CASE WHEN a.activated_at IS NULL OR a.pending_jwk IS NOT NULL
                               THEN 'infinity'::timestamptz END)
        ) e (state, since)
        WHERE a.id = ANY (of_path) AND e.since IS NOT NULL
        ORDER BY e.since, e.state LIMIT 1
    ), 'active')
$$;

-- Delegations that may give a client the same authority: of one delegator at the root, or below one parent. The number
-- grows when one of them becomes active or changes, so that a server notices that its remembered list is old.
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
    AFTER INSERT OR UPDATE OF activated_at, expires_at, pending_jwk, scopes, audiences, authorization_details,
                              capability_ceiling, ceremony_required_for, max_depth, max_uses
    ON delegation FOR EACH ROW EXECUTE FUNCTION raise_candidate_version();

DROP INDEX delegation_of_root;
CREATE INDEX delegation_of_root ON delegation (delegator_sub, delegate, delegator_iss, expires_at)
    WHERE parent IS NULL AND origin <> 'may_act';
DROP INDEX delegation_of_parent;
CREATE INDEX delegation_of_parent ON delegation (parent, delegate, expires_at) WHERE parent IS NOT NULL;

-- Confirmations are listed newest first, in pages, and counted while they wait.
CREATE INDEX ceremony_by_time ON ceremony (delegation_id, requested_at, id);
