-- Trusted issuers and protected resources. They are few and change rarely: servers keep all of them in memory, and the
-- ledger compares the version before it relies on that copy.
CREATE TABLE issuer (
    iss                  text PRIMARY KEY,
    jwks                 jsonb,
    jwks_uri             text,
    -- The tenants of an issuer whose `iss` has the placeholder `{tenantid}`, and what takes its place in the URL of the metadata.
    tenants              text[],
    discovery_tenant     text,
    -- What the metadata of the issuer said when the issuer was declared, if its keys are discovered.
    discovered           jsonb,
    audiences            text[] NOT NULL,
    algorithms           text[] NOT NULL,
    token_types          text[] NOT NULL,
    -- Audiences of the tokens with which users decide about delegations; all of `audiences` if null.
    delegation_audiences text[],
    -- Prefix of this issuer's subjects in issued tokens; null for the one issuer whose subjects have no prefix.
    alias                text CHECK (alias ~ '^[a-z0-9-]{1,32}$'),
    -- Time of the last change of the prefix: tokens that were issued earlier name their subject in another form.
    subject_changed_at   timestamptz,
    may_act              text NOT NULL DEFAULT 'restrict' CHECK (may_act IN ('authorize', 'restrict', 'ignore')),
    -- Whether tokens of this issuer may name actors.
    actors               text NOT NULL DEFAULT 'refuse' CHECK (actors IN ('refuse', 'accept')),
    -- The introspection endpoint and this server's registration there; null if tokens are not introspected.
    introspection        jsonb,
    -- This server's client secret at that endpoint, sealed under the master key together with the settings.
    introspection_secret text,
    -- This server's registration for sign-ins to the console and the endpoints there; null if users do not sign in.
    sign_in              jsonb,
    -- This server's client secret for sign-ins, sealed under the master key for the client and the token endpoint.
    sign_in_secret       text,
    -- The claims that contain scopes; `scope` and `scp` if null.
    scope_claims         text[],
    -- The claims that name the user, the client and the session, where they are not those of the specifications.
    claim_names          jsonb NOT NULL DEFAULT '{}',
    -- The clients of the issuer whose tokens are accepted; all of them if null.
    accepted_clients     text[],
    -- `(iss, sub)` of issued tokens must be unique. Deferred, so that two issuers can exchange their prefixes in one
    -- transaction.
    subject_prefix       text GENERATED ALWAYS AS (coalesce(alias, '')) STORED
        CONSTRAINT issuer_subject_prefix_unique UNIQUE DEFERRABLE INITIALLY DEFERRED,
    mac                  bytea
);
-- The names that tokens of an issuer may have: one for each tenant.
CREATE VIEW issuer_identifier AS
SELECT iss, replace(iss, '{tenantid}', tenant) AS identifier FROM issuer, unnest(coalesce(tenants, ARRAY[''])) AS tenant;
GRANT SELECT ON issuer_identifier TO actchain_server;

-- When the metadata of an issuer is read again, the failures since it was read, and the differences that were reported.
CREATE TABLE issuer_metadata_check (
    iss         text PRIMARY KEY REFERENCES issuer ON DELETE CASCADE,
    next_at     timestamptz NOT NULL,
    failures    integer NOT NULL DEFAULT 0,
    reported    jsonb NOT NULL DEFAULT '[]',
    reported_at timestamptz
);
CREATE TABLE resource (
    id           text PRIMARY KEY,
    scopes       text[] NOT NULL,
    detail_types text[] NOT NULL,
    token_ttl    integer,
    mac          bytea
);
GRANT SELECT, INSERT, UPDATE, DELETE ON issuer, issuer_metadata_check, resource TO actchain_server;

-- The version of all issuers and resources together.
CREATE TABLE registry (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version   bigint NOT NULL
);
INSERT INTO registry (version) VALUES (1);
GRANT SELECT, UPDATE ON registry TO actchain_server;
