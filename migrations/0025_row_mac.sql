-- HMAC-SHA-256 of what a row says, under a key that the master key seals. The program checks the MAC whenever it reads the
-- row, so that write access to the database alone makes no issuer, resource, client or delegation that counts.
ALTER TABLE issuer ADD COLUMN mac bytea;
ALTER TABLE resource ADD COLUMN mac bytea;
ALTER TABLE client ADD COLUMN mac bytea;
ALTER TABLE delegation ADD COLUMN mac bytea;

-- A shared secret is replaced in its place, never renamed: a server that missed one would make another.
REVOKE UPDATE ON server_secret FROM actchain_server;
GRANT UPDATE (sealed) ON server_secret TO actchain_server;
-- Whom a removed key or a cut-off belongs to does not change.
REVOKE UPDATE ON removed_key, principal_revocation FROM actchain_server;
GRANT UPDATE (removed_at, removed_epoch, restored_at) ON removed_key TO actchain_server;
GRANT UPDATE (at, revocation_epoch, reason) ON principal_revocation TO actchain_server;
