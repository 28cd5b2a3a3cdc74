-- Signing keys; the private half is sealed under the master key. The states next, active, retiring and removed are derived
-- from the times.
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
-- Of two servers that rotate a key at the same time, only one may succeed.
CREATE UNIQUE INDEX signing_key_active ON signing_key (purpose)
    WHERE activated_at IS NOT NULL AND retired_at IS NULL AND removed_at IS NULL;
CREATE UNIQUE INDEX signing_key_next ON signing_key (purpose) WHERE activated_at IS NULL AND removed_at IS NULL;
GRANT SELECT, INSERT, UPDATE ON signing_key TO actchain_server;

-- Secrets that all servers of this database share, sealed under the master key. They stay the same when the master key is
-- replaced. A secret is sealed again in its row, never renamed: a server that does not find a secret makes a new one.
CREATE TABLE server_secret (
    name   text PRIMARY KEY,
    sealed text NOT NULL
);
GRANT SELECT, INSERT, UPDATE (sealed) ON server_secret TO actchain_server;
