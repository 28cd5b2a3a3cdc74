-- What ends authority besides a delegation's own row: one row each, and all that was derived is dead. Whoever writes
-- here holds the authority lock (an advisory lock that every batch of the ledger shares), so that nothing can slip past.
ALTER TABLE client
    -- Everything that this client was given or got up to that epoch is dead.
    ADD COLUMN cutoff_epoch bigint,
    -- An agent that was made for one delegation: that delegation, the task, and who made it.
    ADD COLUMN ephemeral_delegation_id       text,
    ADD COLUMN task_id    text,
    ADD COLUMN owner_iss  text,
    ADD COLUMN owner_sub  text,
    ADD COLUMN deactivated_at   timestamptz,
    -- Whether `dpop_keys` are the only ones; then none of them left means none at all.
    ADD COLUMN dpop_restricted boolean NOT NULL DEFAULT false;
UPDATE client SET dpop_restricted = cardinality(dpop_keys) > 0;
CREATE INDEX client_of_task ON client (task_id, owner_iss, owner_sub) WHERE task_id IS NOT NULL;
CREATE INDEX client_to_end ON client (client_id) WHERE ephemeral_delegation_id IS NOT NULL AND deactivated_at IS NULL;
CREATE INDEX client_gone ON client (client_id)
    WHERE cutoff_epoch IS NOT NULL OR deactivated_at IS NOT NULL OR disabled_at IS NOT NULL;

CREATE TABLE principal_revocation (
    iss    text NOT NULL,
    sub    text NOT NULL,
    -- What others issued up to then is dead; what we recorded up to that epoch is.
    at     timestamptz NOT NULL,
    revocation_epoch bigint NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (iss, sub)
);
CREATE TABLE removed_key (
    client_id  text NOT NULL REFERENCES client,
    jkt        text NOT NULL,
    removed_at timestamptz NOT NULL,
    removed_epoch bigint NOT NULL,
    PRIMARY KEY (client_id, jkt)
);
-- Grows with everything that may end a token: what was computed at one number holds as long as the number does. Under
-- the authority lock it also tells before from after, which clocks do not: servers have one each, and read it before they take it.
CREATE TABLE revocation_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    number bigint NOT NULL
);
INSERT INTO revocation_epoch (number) VALUES (1);
-- Audiences of tokens under which users decide about delegations, where those are not all that an issuer has for us.
ALTER TABLE issuer ADD COLUMN delegation_audiences text[];
GRANT SELECT, INSERT, UPDATE ON principal_revocation, removed_key TO actchain_server;
GRANT SELECT, UPDATE ON revocation_epoch TO actchain_server;
