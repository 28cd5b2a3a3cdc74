-- The log in partitions, one for each span of time, which can be archived and dropped; the hashes that proofs are made of,
-- which stay; and what events are found by. All but the events themselves can be made from them again.
ALTER TABLE audit_event RENAME TO audit_event_0;
ALTER TABLE audit_event_0
    DROP CONSTRAINT audit_event_pkey,
    ADD COLUMN partition integer NOT NULL DEFAULT 0,
    ADD CHECK (partition = 0),
    ADD PRIMARY KEY (seq, partition);
ALTER TABLE audit_event_0 ALTER COLUMN partition DROP DEFAULT;
REVOKE ALL ON audit_event_0 FROM actchain_server;
CREATE TABLE audit_event (
    seq      bigint NOT NULL,
    document text NOT NULL,
    partition     integer NOT NULL,
    PRIMARY KEY (seq, partition)
) PARTITION BY LIST (partition);
ALTER TABLE audit_event ATTACH PARTITION audit_event_0 FOR VALUES IN (0);
GRANT SELECT, INSERT ON audit_event TO actchain_server;

-- A partition holds what was recorded from its opening until that of the next: an unbroken run of `seq`. One that was
-- archived says so here, and what vouches for its file.
CREATE TABLE audit_partition (
    partition        integer PRIMARY KEY,
    first_seq   bigint NOT NULL,
    opened_at   timestamptz NOT NULL,
    archived_at timestamptz,
    file_sha256 bytea,
    CHECK ((archived_at IS NULL) = (file_sha256 IS NULL))
);
INSERT INTO audit_partition (partition, first_seq, opened_at) VALUES (0, 0, now());
GRANT SELECT ON audit_partition TO actchain_server;
-- Which partition is written to stands in the head: no writer's clock decides, and none writes where there is no partition.
ALTER TABLE audit_head ADD COLUMN partition integer NOT NULL DEFAULT 0;
REVOKE UPDATE ON audit_head FROM actchain_server;
GRANT UPDATE (size, peaks) ON audit_head TO actchain_server;

-- Opens the next partition, if `after` is the last one. The only change of the schema that the server's role may cause.
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

-- 1024 events in a row: their leaf hashes, and the earliest and latest `at` of them.
CREATE TABLE audit_block (
    block    integer PRIMARY KEY,
    leaves   bytea NOT NULL,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    CHECK (octet_length(leaves) = 1024 * 32)
);
ALTER TABLE audit_block ALTER COLUMN leaves SET STORAGE EXTERNAL;
CREATE INDEX audit_block_time ON audit_block (last_at, first_at, block);
-- Roots of the perfect subtrees over 256^level events, those of the tiles (c2sp.org/tlog-tiles).
CREATE TABLE audit_node (
    level smallint NOT NULL CHECK (level > 0),
    n     bigint NOT NULL,
    hash  bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, n)
);
-- Where in a block a term occurs: its members' numbers, two bytes each, or one bit for each event of the block.
CREATE TABLE audit_posting (
    term    bigint NOT NULL,
    block   integer NOT NULL,
    bitmap bytea NOT NULL,
    PRIMARY KEY (term, block)
);
GRANT SELECT, INSERT ON audit_block, audit_node, audit_posting TO actchain_server;

-- Whoever follows the log is woken by whatever makes it grow.
CREATE FUNCTION audit_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('actchain_audit', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_notify AFTER UPDATE ON audit_head FOR EACH STATEMENT EXECUTE FUNCTION audit_notify();

-- Witnesses say that they saw a checkpoint, and nothing that contradicts it (c2sp.org/tlog-cosignature).
CREATE TABLE audit_cosignature (
    size   bigint NOT NULL,
    key    text NOT NULL,
    line   text NOT NULL,
    at     timestamptz NOT NULL,
    PRIMARY KEY (size, key)
);
GRANT SELECT, INSERT ON audit_cosignature TO actchain_server;

ALTER TABLE client DROP CONSTRAINT client_kind_check,
    ADD CONSTRAINT client_kind_check CHECK (kind IN ('agent', 'service', 'resource_server', 'admin', 'auditor'));
