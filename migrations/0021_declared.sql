-- Argon2id hash of the secret that a manifest declared last: a manifest that still declares it does not replace a secret
-- that was rotated since.
ALTER TABLE client ADD COLUMN declared_secret text;
-- Issuers and resources can be removed.
GRANT DELETE ON issuer, resource TO actchain_server;
