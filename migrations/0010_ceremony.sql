-- Confirmations, each for one use. `fingerprint` identifies the client, the request and the key.
CREATE TABLE ceremony (
    id                    uuid PRIMARY KEY,
    delegation_id         text NOT NULL REFERENCES delegation,
    client_id             text NOT NULL,
    fingerprint           bytea NOT NULL,
    scopes                text[] NOT NULL,
    audiences             text[] NOT NULL,
    authorization_details jsonb,
    capability            text,
    requested_at          timestamptz NOT NULL,
    expires_at            timestamptz NOT NULL,
    approved_at           timestamptz,
    denied_at             timestamptz,
    used_at               timestamptz
);
CREATE INDEX ceremony_of_delegation ON ceremony (delegation_id, client_id, fingerprint);
CREATE INDEX ceremony_to_forget ON ceremony (expires_at);
-- Lists of confirmations are in pages, newest first; the waiting ones are counted.
CREATE INDEX ceremony_by_time ON ceremony (delegation_id, requested_at, id);
GRANT SELECT, INSERT, UPDATE, DELETE ON ceremony TO actchain_server;
