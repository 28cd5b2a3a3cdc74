-- Clients authenticate at the endpoints. `version` grows with every change: the ledger decides an exchange again if the
-- decision relied on an older version.
CREATE TABLE client (
    client_id               text PRIMARY KEY,
    version                 bigint NOT NULL DEFAULT 1,
    kind                    text NOT NULL CHECK (kind IN ('agent', 'service', 'resource_server', 'admin', 'auditor')),
    name                    text NOT NULL,
    auth                    text NOT NULL
        CHECK (auth IN ('client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none')),
    -- [{"hash": Argon2id PHC string, "expires_at": RFC 3339 or null}]
    secrets                 jsonb NOT NULL,
    jwks                    jsonb,
    jwks_uri                text,
    scopes                  text[] NOT NULL,
    audiences               text[] NOT NULL,
    detail_types            text[] NOT NULL,
    grant_types             text[] NOT NULL,
    dpop                    text NOT NULL CHECK (dpop IN ('required', 'optional')),
    -- Whether tokens are bound to the key of a proof.
    token_type              text NOT NULL DEFAULT 'dpop' CHECK (token_type IN ('dpop', 'bearer')),
    -- The audiences that are accepted in the client's assertions.
    assertion_audience      text NOT NULL DEFAULT 'issuer'
                            CHECK (assertion_audience IN ('issuer', 'token_endpoint')),
    dpop_keys               text[] NOT NULL,
    -- [{"iss": …, "sub": …}]: workloads whose tokens authenticate this client.
    actor_subjects          jsonb NOT NULL,
    max_token_ttl           integer,
    created_at              timestamptz NOT NULL,
    updated_at              timestamptz NOT NULL,
    disabled_at             timestamptz,
    -- Tokens and delegations of this client that were recorded up to this epoch are revoked.
    cutoff_epoch            bigint,
    -- For an agent that was made for one delegation: the delegation, the task, and the principal that made the agent.
    ephemeral_delegation_id text,
    task_id                 text,
    owner_iss               text,
    owner_sub               text,
    deactivated_at          timestamptz,
    -- Whether only the keys in `dpop_keys` are accepted. Then an empty list accepts no key; otherwise it accepts all.
    dpop_restricted         boolean NOT NULL DEFAULT false,
    -- Argon2id hash of the secret in the last manifest. A manifest that still has this secret does not replace a secret
    -- that was rotated afterwards.
    declared_secret         text,
    -- HMAC-SHA-256 of the content of the row, under a key that the master key seals. The program checks the MAC of every
    -- row that it reads, so that write access to the database alone cannot add or change a client. Issuers, resources and
    -- delegations have the same column.
    mac                     bytea
);
CREATE INDEX client_of_task ON client (task_id, owner_iss, owner_sub) WHERE task_id IS NOT NULL;
CREATE INDEX client_to_end ON client (client_id) WHERE ephemeral_delegation_id IS NOT NULL AND deactivated_at IS NULL;
-- For lists of clients, by the bytes of their ids.
CREATE INDEX client_list ON client (client_id COLLATE "C");
CREATE INDEX client_list_of_kind ON client (kind, client_id COLLATE "C");
CREATE INDEX client_list_of_name ON client (name COLLATE "C", client_id COLLATE "C");
CREATE INDEX client_inactive ON client (client_id)
    WHERE cutoff_epoch IS NOT NULL OR deactivated_at IS NOT NULL OR disabled_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON client TO actchain_server;

-- Whether a client is disabled or, made for one delegation, deactivated. `Client::is_inactive` is its equal in the program.
CREATE FUNCTION is_inactive_client(disabled_at timestamptz, deactivated_at timestamptz) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN disabled_at IS NOT NULL OR deactivated_at IS NOT NULL;
