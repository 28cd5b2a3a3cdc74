-- The console session in which an authorization at a provider was begun. Its callback leads back to the console, in that
-- session only.
ALTER TABLE pending_authorization ADD COLUMN console_session uuid;

-- Delegations that name a connection.
CREATE INDEX delegation_details ON delegation USING gin (authorization_details jsonb_path_ops)
    WHERE authorization_details IS NOT NULL;

-- What waits for a decision, of one delegator and of all. An ended delegation leaves these indexes when its end is logged.
CREATE INDEX delegation_decidable_of ON delegation (delegator_sub, delegator_iss, requested_at, id)
    WHERE NOT expiry_logged AND (activated_at IS NULL OR pending_jwk IS NOT NULL OR suspended_at IS NOT NULL);
CREATE INDEX delegation_decidable ON delegation (requested_at, id)
    WHERE NOT expiry_logged AND (activated_at IS NULL OR pending_jwk IS NOT NULL OR suspended_at IS NOT NULL);

-- Times of the first and the last use, by an exchange or a reported command.
ALTER TABLE delegation_usage ADD COLUMN first_used_at timestamptz, ADD COLUMN last_used_at timestamptz;

-- Decisions, for lists of them: the log is the record. A row has the delegator and the agent of its delegation, so that one
-- index finds a page.
CREATE TABLE decision (
    id            uuid PRIMARY KEY,
    delegation_id text NOT NULL REFERENCES delegation ON DELETE CASCADE,
    -- The confirmation, where one use was decided. Confirmations are deleted after their expiry; the decision stays.
    ceremony      uuid,
    kind          text NOT NULL CHECK (kind IN ('request', 'key_rotation', 'review', 'use')),
    outcome       text NOT NULL CHECK (outcome IN ('approved', 'denied')),
    delegator_iss text NOT NULL,
    delegator_sub text NOT NULL,
    delegate      text NOT NULL,
    decided_at    timestamptz NOT NULL,
    -- The deciding person or client; null for an operator, and after an erasure.
    by_iss        text,
    by_sub        text,
    -- Whether the delegator decided, or who did in its place.
    by_role       text NOT NULL CHECK (by_role IN ('delegator', 'administrator', 'operator')),
    -- Members that the approval narrowed, each as requested and as granted.
    narrowed      jsonb
);
CREATE INDEX decision_of ON decision (delegator_sub, delegator_iss, decided_at, id);
CREATE INDEX decision_by_time ON decision (decided_at, id);
CREATE INDEX decision_of_delegation ON decision (delegation_id, decided_at);
CREATE INDEX decision_by_person ON decision (by_sub, by_iss) WHERE by_sub IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON decision TO actchain_server;
