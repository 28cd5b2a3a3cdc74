-- The audit log. A document is immutable text: the hash tree is made of its bytes. The server's role can insert and read
-- events; it can neither change nor delete them. The hashes and the index can be computed again from the events.
--
-- Documents name persons by pseudonyms. What else is personal is beside the document, in `personal`, and the document has
-- its SHA-256. Both become unreadable by an erasure; documents stay.

-- A pseudonym is a hash of issuer and subject with the salt: a changed row is recognized.
CREATE TABLE person (
    pseudonym text PRIMARY KEY,
    iss       text NOT NULL,
    sub       text NOT NULL,
    salt      bytea NOT NULL CHECK (octet_length(salt) = 32),
    UNIQUE (sub, iss)
);
GRANT SELECT, INSERT ON person TO actchain_server;

-- Partitions can be archived and dropped. Each one has the events from its opening to the opening of the next: a run of
-- `seq` without gaps.
CREATE TABLE audit_event (
    seq       bigint NOT NULL,
    document  text NOT NULL,
    partition integer NOT NULL,
    personal  text,
    PRIMARY KEY (seq, partition)
) PARTITION BY LIST (partition);
-- Has the same constraints and indexes as the partitions that `audit_open_partition` makes.
CREATE TABLE audit_event_0 (LIKE audit_event INCLUDING ALL, CHECK (partition = 0));
ALTER TABLE audit_event ATTACH PARTITION audit_event_0 FOR VALUES IN (0);
GRANT SELECT, INSERT ON audit_event TO actchain_server;

CREATE TABLE audit_partition (
    partition   integer PRIMARY KEY,
    first_seq   bigint NOT NULL,
    opened_at   timestamptz NOT NULL,
    archived_at timestamptz,
    file_sha256 bytea,
    -- Signed by the log's key when the partition was archived: the run of events, the roots of the tree at both ends and the
    -- digest of the file. Verification trusts this statement, and no other column of the row.
    statement   text,
    CHECK ((archived_at IS NULL) = (file_sha256 IS NULL))
);
INSERT INTO audit_partition (partition, first_seq, opened_at) VALUES (0, 0, now());
GRANT SELECT ON audit_partition TO actchain_server;

-- The right edge of the Merkle tree: `peaks` has 32 bytes for each 1 in the binary form of `size`. `partition` is the one
-- that events are written to: it does not depend on a server's clock, and it always exists.
CREATE TABLE audit_head (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    size      bigint NOT NULL,
    peaks     bytea NOT NULL,
    partition integer NOT NULL DEFAULT 0,
    -- Number of erased persons. It rises with each erasure: servers compare it, and forget the names they have read.
    erasures  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO audit_head (size, peaks) VALUES (0, '');
GRANT SELECT, UPDATE (size, peaks) ON audit_head TO actchain_server;

-- Clears the personal data of all events from `first` on that name a person. The server's role can change nothing else of an
-- event.
CREATE FUNCTION audit_clear_personal(named text, first bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    cleared bigint;
BEGIN
    IF named !~ '^person-[A-Za-z0-9_-]{32}$' THEN
        RAISE 'not a pseudonym';
    END IF;
    UPDATE audit_event SET personal = NULL
    WHERE seq >= first AND personal IS NOT NULL AND strpos(document, named) > 0;
    GET DIAGNOSTICS cleared = ROW_COUNT;
    RETURN cleared;
END
$$;
REVOKE ALL ON FUNCTION audit_clear_personal FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_clear_personal TO actchain_server;

-- Deletes the only row that says whose pseudonym it is.
CREATE FUNCTION person_erase(erased text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM person WHERE pseudonym = erased;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE audit_head SET erasures = erasures + 1;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION person_erase FROM PUBLIC;
GRANT EXECUTE ON FUNCTION person_erase TO actchain_server;

-- Opens the next partition, if `after` is the last one. No other change of the schema is open to the server's role.
CREATE FUNCTION audit_open_partition(after integer, at timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    next integer := after + 1;
BEGIN
    LOCK TABLE audit_partition IN SHARE ROW EXCLUSIVE MODE;
    IF (SELECT max(partition) FROM audit_partition) <> after THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE audit_event_%s (LIKE audit_event INCLUDING ALL, CHECK (partition = %s))', next, next);
    EXECUTE format('ALTER TABLE audit_event ATTACH PARTITION audit_event_%s FOR VALUES IN (%s)', next, next);
    UPDATE audit_head SET partition = next;
    INSERT INTO audit_partition (partition, first_seq, opened_at) SELECT next, size, at FROM audit_head;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION audit_open_partition FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_open_partition TO actchain_server;

-- Wakes readers that wait for new events.
CREATE FUNCTION audit_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('actchain_audit', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_notify AFTER UPDATE ON audit_head FOR EACH STATEMENT EXECUTE FUNCTION audit_notify();

CREATE TABLE audit_checkpoint (
    size    bigint PRIMARY KEY,
    note    text NOT NULL,
    made_at timestamptz NOT NULL
);
GRANT SELECT, INSERT ON audit_checkpoint TO actchain_server;

-- A witness states that it saw a checkpoint, and no checkpoint that contradicts it (c2sp.org/tlog-cosignature).
CREATE TABLE audit_cosignature (
    size bigint NOT NULL,
    key  text NOT NULL,
    line text NOT NULL,
    at   timestamptz NOT NULL,
    PRIMARY KEY (size, key)
);
CREATE INDEX audit_cosignature_of_witness ON audit_cosignature (key, size);
GRANT SELECT, INSERT ON audit_cosignature TO actchain_server;

-- A block is 1024 consecutive events: their leaf hashes, and the earliest and the latest `at` of the events.
CREATE TABLE audit_block (
    block    integer PRIMARY KEY,
    leaves   bytea NOT NULL,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    CHECK (octet_length(leaves) = 1024 * 32)
);
-- Hashes do not compress. Before version 16, CREATE TABLE cannot set the storage.
ALTER TABLE audit_block ALTER COLUMN leaves SET STORAGE EXTERNAL;
CREATE INDEX audit_block_time ON audit_block (last_at, first_at, block);
-- The leaves of events that were archived while their block was not complete. The block takes them over.
CREATE TABLE audit_leaf (
    seq  bigint PRIMARY KEY,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
GRANT SELECT ON audit_leaf TO actchain_server;
-- Roots of the perfect subtrees of 256^level events, as in tiles (c2sp.org/tlog-tiles).
CREATE TABLE audit_node (
    level smallint NOT NULL CHECK (level > 0),
    n     bigint NOT NULL,
    hash  bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, n)
);
-- The events of a block that have a term: their numbers in the block, two bytes each, or one bit for each event.
CREATE TABLE audit_posting (
    term   bigint NOT NULL,
    block  integer NOT NULL,
    bitmap bytea NOT NULL,
    -- Searches read the postings of a term from the index alone.
    PRIMARY KEY (term, block) INCLUDE (bitmap)
);
GRANT SELECT, INSERT ON audit_block, audit_node, audit_posting TO actchain_server;
