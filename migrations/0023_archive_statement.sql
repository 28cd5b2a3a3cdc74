-- What the log's key signed of a partition when it was archived: the run of events, the roots of the tree at both ends and the
-- digest of the file. Verification believes this statement, and no other column of the row.
ALTER TABLE audit_partition ADD COLUMN statement text;
