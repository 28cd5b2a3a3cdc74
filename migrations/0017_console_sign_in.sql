-- Sign-ins to the console that have begun, each used once and for ten minutes. The table opens nothing: of `state` and of
-- the browser's cookie it has digests, and the PKCE verifier is sealed under the master key.
CREATE TABLE console_sign_in (
    state_sha256   bytea PRIMARY KEY CHECK (octet_length(state_sha256) = 32),
    browser_sha256 bytea NOT NULL CHECK (octet_length(browser_sha256) = 32),
    -- The issuer, by its name in the registry.
    iss            text NOT NULL,
    nonce          text NOT NULL,
    verifier       text NOT NULL,
    -- The page to return to, below the console.
    return_to      text,
    purpose        text NOT NULL CHECK (purpose IN ('normal', 'fresh')),
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    mac            bytea NOT NULL
);
CREATE INDEX console_sign_in_to_forget ON console_sign_in (expires_at);
GRANT SELECT, INSERT, DELETE ON console_sign_in TO actchain_server;

-- Logout tokens of issuers, for a while: each is used once, and a sign-in that had begun before does not end in a session.
CREATE TABLE console_logout (
    iss         text NOT NULL,
    jti         text NOT NULL,
    sub         text,
    sid         text,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (iss, jti)
);
CREATE INDEX console_logout_to_forget ON console_logout (received_at);
GRANT SELECT, INSERT, DELETE ON console_logout TO actchain_server;
