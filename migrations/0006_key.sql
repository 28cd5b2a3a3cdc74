-- Signing keys, private halves sealed under the master key. next → active → retiring → removed, derived from the facts.
CREATE TABLE signing_key (
    kid          text PRIMARY KEY,
    purpose      text NOT NULL CHECK (purpose IN ('token', 'checkpoint')),
    alg          text NOT NULL CHECK (alg IN ('ES256', 'Ed25519', 'RS256')),
    public_jwk   jsonb NOT NULL,
    sealed       text NOT NULL,
    created_at   timestamptz NOT NULL,
    activated_at timestamptz,
    retired_at   timestamptz,
    removed_at   timestamptz
);
-- Two servers that rotate at the same instant must not both succeed.
CREATE UNIQUE INDEX signing_key_active ON signing_key (purpose)
    WHERE activated_at IS NOT NULL AND retired_at IS NULL AND removed_at IS NULL;
CREATE UNIQUE INDEX signing_key_next ON signing_key (purpose) WHERE activated_at IS NULL AND removed_at IS NULL;
GRANT SELECT, INSERT, UPDATE ON signing_key TO actchain_server;
