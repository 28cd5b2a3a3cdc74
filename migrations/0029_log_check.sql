-- What the servers have checked of the log, and when: one row for each kind of check. The MAC is the server's, so that write
-- access to the database alone makes no result. No decision depends on it; the console shows it.
CREATE TABLE log_check (
    name  text PRIMARY KEY,
    state jsonb NOT NULL,
    mac   bytea NOT NULL
);
GRANT SELECT, INSERT, UPDATE (state, mac) ON log_check TO actchain_server;
