-- Whom we trust and what there is to protect. Few and rarely changed: servers keep all of it in memory, and the ledger
-- compares the version before it relies on what they remember.
CREATE TABLE issuer (
    iss         text PRIMARY KEY,
    jwks        jsonb,
    jwks_uri    text,
    audiences   text[] NOT NULL,
    algorithms  text[] NOT NULL,
    token_types text[] NOT NULL
);
CREATE TABLE resource (
    id           text PRIMARY KEY,
    scopes       text[] NOT NULL,
    detail_types text[] NOT NULL,
    token_ttl    integer
);
CREATE TABLE registry (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version bigint NOT NULL
);
INSERT INTO registry (version) VALUES (1);
GRANT SELECT, INSERT, UPDATE ON issuer, resource TO actchain_server;
GRANT SELECT, UPDATE ON registry TO actchain_server;
