-- The log. A document is immutable text: its bytes are what the tree hashes. The server may add and read, nothing else.
CREATE TABLE audit_event (
    seq      bigint PRIMARY KEY,
    document text NOT NULL
);
-- The right edge of the Merkle tree: `peaks` holds 32 bytes for each 1 in the binary form of `size`.
CREATE TABLE audit_head (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    size  bigint NOT NULL,
    peaks bytea NOT NULL
) WITH (fillfactor = 10);
INSERT INTO audit_head (size, peaks) VALUES (0, '');
CREATE TABLE audit_checkpoint (
    size    bigint PRIMARY KEY,
    note    text NOT NULL,
    made_at timestamptz NOT NULL
);
GRANT SELECT, INSERT ON audit_event, audit_checkpoint TO actchain_server;
GRANT SELECT, UPDATE ON audit_head TO actchain_server;
