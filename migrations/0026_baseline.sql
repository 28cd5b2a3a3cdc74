-- What is usual: the targets that a client has used, and the greatest depth of a user's chains. Rules about events say what is
-- unusual; no decision depends on these rows.
CREATE TABLE used_target (
    client_id text NOT NULL,
    target    text NOT NULL,
    first_at  timestamptz NOT NULL,
    PRIMARY KEY (client_id, target)
);
GRANT SELECT, INSERT ON used_target TO actchain_server;

CREATE TABLE usual_depth (
    subject_iss text NOT NULL,
    subject_sub text NOT NULL,
    depth       integer NOT NULL,
    first_at    timestamptz NOT NULL,
    PRIMARY KEY (subject_sub, subject_iss)
);
GRANT SELECT, INSERT, UPDATE (depth), DELETE ON usual_depth TO actchain_server;
