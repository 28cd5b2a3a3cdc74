-- Sessions of people in the console. A row is kept some time after its end, so that the owner can see it. The cookie is
-- not stored: `secret_sha256` is its digest, and `mac` keeps a writer to the database from making a session.
CREATE TABLE console_session (
    id               text PRIMARY KEY,
    secret_sha256    bytea NOT NULL UNIQUE CHECK (octet_length(secret_sha256) = 32),
    role             text NOT NULL CHECK (role IN ('user', 'admin', 'auditor', 'operator')),
    -- The condition of the rule that gave the role, such as `groups has ops`.
    role_by          text,
    -- The person; null for an operator who entered by a link.
    iss              text,
    sub              text,
    -- The name of the person in logout tokens of the issuer: the claim `sub`, which need not be what names users here.
    issuer_subject   text,
    -- The session at the person's issuer.
    issuer_session   text,
    -- What is shown beside the name of the person.
    label            text,
    signed_in_at     timestamptz NOT NULL,
    -- When the issuer authenticated the person; where it did not say, when it issued the token.
    authenticated_at timestamptz NOT NULL,
    -- Whether the issuer said when. Only then the person can be freshly authenticated.
    auth_time_known  boolean NOT NULL,
    expires_at       timestamptz NOT NULL,
    last_seen_at     timestamptz NOT NULL,
    ended_at         timestamptz,
    ip               text,
    user_agent       text,
    mac              bytea NOT NULL,
    CHECK ((role = 'operator') = (sub IS NULL) AND (iss IS NULL) = (sub IS NULL))
);
CREATE INDEX console_session_of_person ON console_session (sub, iss, signed_in_at DESC);
CREATE INDEX console_session_at_issuer ON console_session (iss, issuer_session) WHERE ended_at IS NULL;
CREATE INDEX console_session_to_forget ON console_session (expires_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON console_session TO actchain_server;

-- Links from the shell of an operator, each good once.
CREATE TABLE console_link (
    id            text PRIMARY KEY,
    secret_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(secret_sha256) = 32),
    expires_at    timestamptz NOT NULL,
    mac           bytea NOT NULL
);
GRANT SELECT, INSERT, DELETE ON console_link TO actchain_server;
