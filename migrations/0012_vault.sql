-- Keys under which secrets are sealed; the master key wraps them. The active key seals; retired keys only open.
CREATE TABLE data_key (
    id         text PRIMARY KEY,
    wrapped    text NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz
);
CREATE UNIQUE INDEX data_key_active ON data_key ((true)) WHERE retired_at IS NULL;

-- Providers of credentials, as declared.
CREATE TABLE provider (
    id         text PRIMARY KEY,
    version    bigint NOT NULL,
    settings   jsonb NOT NULL,
    -- The secret of this server as a client of the provider, or an empty value; sealed together with `settings`.
    sealed     text NOT NULL,
    data_key   text NOT NULL REFERENCES data_key,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- A credential of one principal at one provider.
CREATE TABLE connection (
    id                 text PRIMARY KEY,
    provider           text NOT NULL REFERENCES provider,
    owner_iss          text NOT NULL,
    owner_sub          text NOT NULL,
    -- The delegation whose token was exchanged for the credential; null for a credential of the owner.
    delegation_id      text,
    name               text,
    -- Grows with every change: a caller that relies on a credential names the version that it read.
    version            bigint NOT NULL DEFAULT 1,
    -- Null after the credential was deleted.
    sealed             text,
    data_key           text REFERENCES data_key,
    -- The scopes that the provider granted; null if the provider did not name them.
    scopes             text[],
    -- Expiry of the access token, if known.
    expires_at         timestamptz,
    has_refresh_token  boolean NOT NULL,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    refreshed_at       timestamptz,
    -- Time since which the provider refuses the credential.
    needs_reconnect_at timestamptz,
    disconnected_at    timestamptz,
    -- The server that refreshes the credential, and the time until which no other server does.
    lease              uuid,
    lease_until        timestamptz,
    -- Time at which the credential was stored: a token with a short lifetime is refreshed near half of the lifetime.
    obtained_at        timestamptz NOT NULL,
    -- The provider asked for no request for this connection before this time.
    retry_at           timestamptz,
    -- Time at which the provider's API refused the access token; null again with the next access token.
    rejected_at        timestamptz
);
CREATE INDEX connection_of_owner ON connection (owner_iss, owner_sub, id);
CREATE INDEX connection_of_provider ON connection (provider, id);
CREATE INDEX connection_of_delegation ON connection (delegation_id, provider) WHERE delegation_id IS NOT NULL;
CREATE INDEX connection_ended ON connection (disconnected_at)
    WHERE delegation_id IS NOT NULL AND sealed IS NULL AND disconnected_at IS NOT NULL;
CREATE INDEX connection_data_key ON connection (data_key) WHERE sealed IS NOT NULL;

-- Authorizations at providers that are not finished (RFC 6749 §4.1).
CREATE TABLE pending_authorization (
    -- SHA-256 of the `state` in the authorization request.
    state                  bytea PRIMARY KEY,
    -- The connection that will be created, or that receives a new credential.
    connection             text NOT NULL,
    provider               text NOT NULL REFERENCES provider,
    owner_iss              text NOT NULL,
    owner_sub              text NOT NULL,
    name                   text,
    scopes                 text[] NOT NULL,
    -- SHA-256 of the cookie of the browser that started the authorization.
    browser_binding_hash   bytea NOT NULL,
    -- Time at which the owner was authenticated: a later revocation of the owner applies to the authorization, too.
    owner_authenticated_at timestamptz NOT NULL,
    -- The PKCE verifier, sealed. After another browser came back, also the authorization code and the finishing code.
    sealed                 text NOT NULL,
    data_key               text NOT NULL REFERENCES data_key,
    created_at             timestamptz NOT NULL,
    expires_at             timestamptz NOT NULL,
    -- Time at which another browser came back than the one that started the authorization.
    code_received_at       timestamptz,
    -- Failed attempts to finish the authorization.
    attempts               integer NOT NULL DEFAULT 0
);
CREATE INDEX pending_authorization_expiry ON pending_authorization (expires_at);
CREATE INDEX pending_authorization_of_owner ON pending_authorization (owner_iss, owner_sub, created_at);
-- At most one for each connection: the newest.
CREATE UNIQUE INDEX pending_authorization_connection ON pending_authorization (connection);

GRANT SELECT, INSERT, UPDATE ON provider, data_key TO actchain_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON connection TO actchain_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON pending_authorization TO actchain_server;
