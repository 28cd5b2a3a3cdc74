-- The session in which a client works for a user without naming one: a new one begins after half an hour without an exchange.
-- `last_at` is exact to a minute: exchanges within a minute of the last write do not touch the row. Sessions that clients name
-- have no row: their id is computed from client, user and name.
CREATE TABLE session (
    client_id   text NOT NULL,
    subject_iss text NOT NULL,
    subject_sub text NOT NULL,
    id          uuid NOT NULL,
    last_at     timestamptz NOT NULL,
    PRIMARY KEY (client_id, subject_sub, subject_iss)
);
CREATE INDEX session_idle ON session (last_at);
CREATE INDEX session_of_subject ON session (subject_sub, subject_iss);
GRANT SELECT, INSERT, UPDATE (id, last_at), DELETE ON session TO actchain_server;
