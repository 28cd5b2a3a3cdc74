-- A user's lasting consent to delegations of one agent. A row contains facts; the state is derived from them. Requests of the
-- agent that are within one active row become active without a decision of the user.
CREATE TABLE standing_grant (
    id                    text PRIMARY KEY,
    grantor_iss           text NOT NULL,
    grantor_sub           text NOT NULL,
    client_id             text NOT NULL REFERENCES client,
    -- Thumbprints of the keys that the grantor has confirmed, sorted.
    keys                  text[] NOT NULL CHECK (cardinality(keys) > 0),
    scopes                text[] NOT NULL,
    audiences             text[] NOT NULL,
    authorization_details jsonb,
    capability_ceiling    text,
    -- The most that each delegation gets: seconds, uses, actors.
    max_ttl               integer NOT NULL,
    max_uses              bigint,
    max_depth             integer,
    -- Whether delegations may have offline access.
    offline_access        boolean NOT NULL DEFAULT false,
    created_at            timestamptz NOT NULL,
    created_by            text NOT NULL CHECK (created_by IN ('user', 'admin', 'operator')),
    expires_at            timestamptz NOT NULL,
    revoked_at            timestamptz,
    -- Set as long as the grantor has not confirmed the keys of the agent.
    suspended_at          timestamptz,
    suspension_cause      text CHECK (suspension_cause IN ('key_not_pinned', 'registration_changed', 'key_removed', 'backup_restored')),
    -- The key that was not pinned, or that was removed.
    seen_key              text,
    -- Whether the log has the event of the suspension, and of the expiry.
    suspension_logged     boolean NOT NULL DEFAULT false,
    expiry_logged         boolean NOT NULL DEFAULT false,
    -- The epoch in which the row was recorded.
    created_epoch         bigint NOT NULL,
    mac                   bytea,
    CHECK ((suspended_at IS NULL) = (suspension_cause IS NULL))
);
-- Finds the rows that can cover a request of an agent, those that end last first.
CREATE INDEX standing_grant_between ON standing_grant (grantor_sub, client_id, grantor_iss, expires_at DESC, id)
    WHERE revoked_at IS NULL;
CREATE INDEX standing_grant_of_grantor ON standing_grant (grantor_sub, grantor_iss, created_at);
CREATE INDEX standing_grant_by_time ON standing_grant (created_at);
-- Rows with these keys that a proof under another key suspends.
CREATE INDEX standing_grant_of_keys ON standing_grant (client_id, keys, expires_at)
    WHERE revoked_at IS NULL AND suspended_at IS NULL;
-- Suspended rows with these keys. Apart from the active ones, so that no proof reads them.
CREATE INDEX standing_grant_suspended_of_keys ON standing_grant (client_id, keys, expires_at)
    WHERE revoked_at IS NULL AND suspended_at IS NOT NULL;
CREATE INDEX standing_grant_revoked ON standing_grant (expires_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX standing_grant_suspended ON standing_grant (expires_at) WHERE suspended_at IS NOT NULL;
CREATE INDEX standing_grant_unlogged ON standing_grant (id) WHERE suspended_at IS NOT NULL AND NOT suspension_logged;
CREATE INDEX standing_grant_ending ON standing_grant (expires_at) WHERE NOT expiry_logged;
GRANT SELECT, INSERT, UPDATE ON standing_grant TO actchain_server;

-- The sets of keys that rows of an agent have or had: few, whatever the number of rows. A set is deleted with the end of a row,
-- under the exclusive authority lock, so that no other row with the set is being written. So a proof under a key that is not
-- pinned is found by one read of this table, and one of `standing_grant_of_keys` for each set.
CREATE TABLE standing_grant_keys (
    client_id text NOT NULL REFERENCES client,
    keys      text[] NOT NULL,
    PRIMARY KEY (client_id, keys)
);
GRANT SELECT, INSERT, DELETE ON standing_grant_keys TO actchain_server;

-- The state of a row, from its facts. The first end decides.
CREATE FUNCTION standing_grant_state(
    at                   timestamptz,
    expires_at           timestamptz,
    revoked_at           timestamptz,
    principal_revoked_at timestamptz,
    suspended_at         timestamptz
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN revoked_at IS NOT NULL OR principal_revoked_at < expires_at THEN 'revoked'
                WHEN expires_at <= at THEN 'expired'
                WHEN suspended_at IS NOT NULL THEN 'suspended'
                ELSE 'active'
           END;

-- A row with the time at which a revoke-all of the grantor or of the agent covered it. The MAC is left out.
CREATE VIEW standing_grant_status AS
    SELECT g.id, g.grantor_iss, g.grantor_sub, g.client_id, g.keys, g.scopes, g.audiences, g.authorization_details,
           g.capability_ceiling, g.max_ttl, g.max_uses, g.max_depth, g.offline_access, g.created_at, g.created_by, g.expires_at, g.revoked_at,
           g.suspended_at, g.suspension_cause, g.seen_key, g.created_epoch,
           CASE WHEN revocation_covers(greatest(c.revocation_epoch, k.cutoff_epoch), g.created_epoch) THEN coalesce((
               SELECT min(h.at) FROM principal_revocation_history h
               WHERE revocation_covers(h.revocation_epoch, g.created_epoch)
                 AND ((h.iss = g.grantor_iss AND h.sub = g.grantor_sub) OR h.client_id = g.client_id)
           ), g.created_at) END AS principal_revoked_at
    FROM standing_grant g
    LEFT JOIN principal_revocation c ON c.iss = g.grantor_iss AND c.sub = g.grantor_sub
    LEFT JOIN client k ON k.client_id = g.client_id;
GRANT SELECT ON standing_grant_status TO actchain_server;

-- The standing grant under which a delegation became active. Its revocation revokes the delegation, and as long as it is
-- suspended, the delegation waits: by these two facts of one row, whatever the number of delegations.
ALTER TABLE delegation ADD COLUMN standing_grant_id text REFERENCES standing_grant;
CREATE INDEX delegation_of_standing_grant ON delegation (standing_grant_id, requested_at, id) WHERE standing_grant_id IS NOT NULL;

CREATE OR REPLACE VIEW delegation_status AS
    SELECT d.id, d.path, d.parent, d.root_iss, d.root_sub, d.delegator_iss, d.delegator_sub, d.delegate, d.scopes,
           d.audiences, d.authorization_details, d.max_depth, d.max_uses, d.origin, d.requested_at, d.activated_at,
           d.expires_at, coalesce(d.revoked_at, CASE WHEN g.revoked_at < d.expires_at THEN g.revoked_at END) AS revoked_at,
           CASE WHEN d.revoked_at IS NULL AND g.revoked_at < d.expires_at THEN 'standing_grant_revoked'
                ELSE d.revoke_reason END AS revoke_reason,
           d.capability_ceiling, d.ceremony_required_for, d.reason, d.agent,
           d.requested_by_iss, d.requested_by_sub, d.requested_ttl, d.pending_jwk, d.suspended_at, d.expiry_logged, d.created_epoch,
           d.offline_access,
           -- Null if the count is missing, which readers refuse.
           u.uses, u.exhausted_at,
           d.activated_at IS NULL OR d.pending_jwk IS NOT NULL OR d.suspended_at IS NOT NULL OR g.suspended_at IS NOT NULL
               AS waiting,
           u.exhausted_at IS NOT NULL OR coalesce(u.uses >= d.max_uses, d.max_uses IS NOT NULL) AS used_up,
           CASE WHEN u.exhausted_at IS NOT NULL OR coalesce(u.uses >= d.max_uses, d.max_uses IS NOT NULL)
                THEN coalesce(u.used_up_at, u.exhausted_at, d.requested_at) END AS used_up_at,
           coalesce(revocation_covers(greatest(c.revocation_epoch, k.cutoff_epoch), d.created_epoch), false)
               AS principal_revoked,
           CASE WHEN revocation_covers(greatest(c.revocation_epoch, k.cutoff_epoch), d.created_epoch) THEN coalesce((
               SELECT min(h.at) FROM principal_revocation_history h
               WHERE revocation_covers(h.revocation_epoch, d.created_epoch)
                 AND ((h.iss = d.delegator_iss AND h.sub = d.delegator_sub) OR h.client_id = d.delegate)
           ), d.requested_at) END AS principal_revoked_at,
           d.standing_grant_id, g.suspended_at AS standing_grant_suspended_at
    FROM delegation d
    LEFT JOIN delegation_usage u ON u.delegation_id = d.id
    LEFT JOIN principal_revocation c ON c.iss = d.delegator_iss AND c.sub = d.delegator_sub
    LEFT JOIN client k ON k.client_id = d.delegate
    -- `LATERAL` with `OFFSET 0` makes PostgreSQL find the row by its index, also in plans that are kept while the table grows.
    LEFT JOIN LATERAL (
        SELECT revoked_at, suspended_at FROM standing_grant WHERE id = d.standing_grant_id OFFSET 0
    ) g ON true;
GRANT SELECT ON delegation_status TO actchain_server;

-- A change of how an agent proves itself suspends the rows that the agent has, in the transaction of the change.
CREATE FUNCTION suspend_standing_grants_of_client() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE standing_grant SET suspended_at = NEW.updated_at, suspension_cause = 'registration_changed', suspension_logged = false
    WHERE client_id = NEW.client_id AND revoked_at IS NULL AND suspended_at IS NULL AND expires_at > NEW.updated_at
      AND id IN (SELECT id FROM standing_grant_status WHERE client_id = NEW.client_id AND principal_revoked_at IS NULL);
    RETURN NULL;
END
$$;
CREATE TRIGGER client_proves_itself_otherwise
    AFTER UPDATE OF kind, auth, jwks, jwks_uri, dpop, token_type, dpop_keys, dpop_restricted ON client FOR EACH ROW
    WHEN ((OLD.kind, OLD.auth, OLD.jwks, OLD.jwks_uri, OLD.dpop, OLD.token_type, OLD.dpop_keys, OLD.dpop_restricted)
          IS DISTINCT FROM (NEW.kind, NEW.auth, NEW.jwks, NEW.jwks_uri, NEW.dpop, NEW.token_type, NEW.dpop_keys, NEW.dpop_restricted))
    EXECUTE FUNCTION suspend_standing_grants_of_client();

-- Thumbprints of the keys that a client publishes at its `jwks_uri`, as a server fetched them last.
CREATE TABLE client_published_keys (
    client_id  text PRIMARY KEY REFERENCES client,
    jwks_uri   text NOT NULL,
    keys       text[] NOT NULL,
    fetched_at timestamptz NOT NULL,
    -- How many sets have been stored.
    version    bigint NOT NULL DEFAULT 1
);
GRANT SELECT, INSERT, UPDATE ON client_published_keys TO actchain_server;

-- The removal of a pinned key suspends the rows that have it.
CREATE FUNCTION suspend_standing_grants_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE standing_grant SET suspended_at = NEW.removed_at, suspension_cause = 'key_removed', seen_key = NEW.jkt,
                              suspension_logged = false
    WHERE client_id = NEW.client_id AND NEW.jkt = ANY (keys) AND revoked_at IS NULL
      -- The removal also changed the registration, in the same transaction: its event names the graver cause.
      AND (suspended_at IS NULL OR NOT suspension_logged)
      AND expires_at > NEW.removed_at
      AND id IN (SELECT id FROM standing_grant_status WHERE client_id = NEW.client_id AND principal_revoked_at IS NULL);
    RETURN NULL;
END
$$;
CREATE TRIGGER removed_key_was_pinned
    AFTER INSERT OR UPDATE OF removed_at ON removed_key FOR EACH ROW
    WHEN (NEW.restored_at IS NULL) EXECUTE FUNCTION suspend_standing_grants_of_key();

-- Who creates standing grants for the users of an issuer.
ALTER TABLE issuer ADD COLUMN standing_grants text NOT NULL DEFAULT 'by_user'
    CHECK (standing_grants IN ('by_user', 'by_user_or_admin'));
