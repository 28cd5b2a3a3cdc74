-- What waits for a decision is counted for every page of the console: by delegator for users, as a whole for administrators.
CREATE INDEX delegation_waiting ON delegation (delegator_sub, delegator_iss, expires_at)
    WHERE revoked_at IS NULL AND (activated_at IS NULL OR pending_jwk IS NOT NULL OR suspended_at IS NOT NULL);
CREATE INDEX delegation_all_waiting ON delegation (expires_at)
    WHERE revoked_at IS NULL AND (activated_at IS NULL OR pending_jwk IS NOT NULL OR suspended_at IS NOT NULL);
CREATE INDEX ceremony_waiting ON ceremony (expires_at, delegation_id) WHERE approved_at IS NULL AND denied_at IS NULL;

-- Children of a delegation, and delegations without a parent, newest first.
CREATE INDEX delegation_children ON delegation (parent, requested_at, id) WHERE parent IS NOT NULL;
CREATE INDEX delegation_roots ON delegation (requested_at, id) WHERE parent IS NULL;
CREATE INDEX delegation_roots_of ON delegation (root_sub, root_iss, requested_at, id) WHERE parent IS NULL;
