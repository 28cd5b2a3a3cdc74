-- What secrets are sealed under; wrapped by the master key. One seals, the others only open.
CREATE TABLE data_key (
    id         text PRIMARY KEY,
    wrapped    text NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz
);
CREATE UNIQUE INDEX data_key_active ON data_key ((true)) WHERE retired_at IS NULL;

-- Who gives credentials, as declared.
CREATE TABLE provider (
    id         text PRIMARY KEY,
    version    bigint NOT NULL,
    settings   jsonb NOT NULL,
    -- The secret by which we are its client, or nothing, sealed for these very settings.
    sealed     text NOT NULL,
    data_key   text NOT NULL REFERENCES data_key,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- One principal's credential at one provider.
CREATE TABLE connection (
    id              text PRIMARY KEY,
    provider        text NOT NULL REFERENCES provider,
    owner_iss       text NOT NULL,
    owner_sub       text NOT NULL,
    name            text,
    -- Grows with every change: whoever relies on a credential names the version that it read.
    version         bigint NOT NULL DEFAULT 1,
    -- Absent once there is nothing to keep any more.
    sealed          text,
    data_key        text REFERENCES data_key,
    -- What the provider said that it allows; absent where it said nothing.
    scopes          text[],
    -- When the access token ends, where that is known.
    expires_at      timestamptz,
    has_refresh_token     boolean NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    refreshed_at    timestamptz,
    -- Since when the provider honours it no more.
    needs_reconnect_at       timestamptz,
    disconnected_at timestamptz,
    -- Whoever refreshes it, and until when nobody else does.
    lease           uuid,
    lease_until     timestamptz
);
CREATE INDEX connection_of_owner ON connection (owner_iss, owner_sub, id);
CREATE INDEX connection_of_provider ON connection (provider, id);
CREATE INDEX connection_data_key ON connection (data_key) WHERE sealed IS NOT NULL;

-- Authorizations under way at providers (RFC 6749 §4.1).
CREATE TABLE pending_authorization (
    -- SHA-256 of the `state` that went out.
    state      bytea PRIMARY KEY,
    -- The connection that is to be, or that gets a new credential.
    connection text NOT NULL,
    provider   text NOT NULL REFERENCES provider,
    owner_iss  text NOT NULL,
    owner_sub  text NOT NULL,
    name       text,
    scopes     text[] NOT NULL,
    -- SHA-256 of what the browser holds in which it began.
    browser_binding_hash   bytea NOT NULL,
    -- Since when whoever began it was who it is: a later cut-off ends this, too.
    owner_authenticated_at     timestamptz NOT NULL,
    -- The PKCE verifier, sealed; once another browser has come back, with the authorization code and what finishes it.
    sealed     text NOT NULL,
    data_key   text NOT NULL REFERENCES data_key,
    created_at   timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- When another browser came back than the one in which it began.
    code_received_at timestamptz,
    -- Wrong attempts to finish it.
    attempts     integer NOT NULL DEFAULT 0
);
CREATE INDEX pending_authorization_expiry ON pending_authorization (expires_at);
CREATE INDEX pending_authorization_of_owner ON pending_authorization (owner_iss, owner_sub, created_at);
-- At most one for each connection: the newest.
CREATE UNIQUE INDEX pending_authorization_connection ON pending_authorization (connection);

GRANT SELECT, INSERT, UPDATE ON provider, data_key, connection TO actchain_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON pending_authorization TO actchain_server;

-- What all servers share and nobody else knows, sealed by the master key; it stays when that is replaced.
CREATE TABLE server_secret (
    name   text PRIMARY KEY,
    sealed text NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON server_secret TO actchain_server;
