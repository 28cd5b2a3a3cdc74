-- How many events an hour had, by what happened. Counted with the block that has the events, once; what no block has yet is
-- counted from the documents. Hours are kept for a month. The console shows these numbers, and no decision depends on them.
CREATE TABLE audit_hour (
    hour    timestamptz NOT NULL,
    action  text NOT NULL,
    outcome text NOT NULL,
    -- Empty for events without a reason.
    reason  text NOT NULL,
    events  bigint NOT NULL,
    PRIMARY KEY (hour, action, outcome, reason)
);
GRANT SELECT, INSERT, UPDATE (events), DELETE ON audit_hour TO actchain_server;
