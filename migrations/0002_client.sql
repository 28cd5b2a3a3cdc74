-- Whoever authenticates at our endpoints. `version` grows with every change; an exchange that was decided on an older
-- version is decided again.
CREATE TABLE client (
    client_id      text PRIMARY KEY,
    version        bigint NOT NULL DEFAULT 1,
    kind           text NOT NULL CHECK (kind IN ('agent', 'service', 'resource_server', 'admin')),
    name           text NOT NULL,
    auth           text NOT NULL
        CHECK (auth IN ('client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none')),
    -- [{"hash": Argon2id PHC string, "expires_at": RFC 3339 or null}]
    secrets        jsonb NOT NULL,
    jwks           jsonb,
    jwks_uri       text,
    scopes         text[] NOT NULL,
    audiences      text[] NOT NULL,
    detail_types   text[] NOT NULL,
    grant_types    text[] NOT NULL,
    dpop           text NOT NULL CHECK (dpop IN ('required', 'optional')),
    dpop_keys      text[] NOT NULL,
    -- [{"iss": …, "sub": …}]: workloads whose tokens prove this client
    actor_subjects jsonb NOT NULL,
    max_token_ttl  integer,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    disabled_at    timestamptz
);
GRANT SELECT, INSERT, UPDATE ON client TO actchain_server;
