-- Settings of a sink that tells users what waits for their decision; NULL for a sink that gets events.
ALTER TABLE audit_sink ADD COLUMN notification jsonb;

-- What recipients have not been notified of yet, and how often they were notified. Users have their pseudonym.
CREATE TABLE audit_sink_recipient (
    sink      text NOT NULL REFERENCES audit_sink ON DELETE CASCADE,
    recipient text NOT NULL,
    -- Number of requests of which the next message tells, and the events of the newest of them.
    waiting   bigint NOT NULL,
    seqs      bigint[] NOT NULL,
    -- Time of the next message, and the number of failed attempts to send it.
    due_at    timestamptz,
    attempts  integer NOT NULL DEFAULT 0,
    -- Messages since the begin of an hour.
    hour_from timestamptz NOT NULL,
    messages  integer NOT NULL,
    PRIMARY KEY (sink, recipient),
    CHECK ((due_at IS NULL) = (waiting = 0))
);
CREATE INDEX audit_sink_recipient_due ON audit_sink_recipient (sink, due_at) WHERE due_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit_sink_recipient TO actchain_server;
