-- What may be used once, while anybody would still accept it.
CREATE TABLE used_jti (
    id        uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX used_jti_expires ON used_jti USING brin (expires_at) WITH (pages_per_range = 16);
-- Up to where ids were forgotten. Whatever would be forgotten by now is refused even if a clock that was set back
-- would accept it again.
CREATE TABLE replay_horizon (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    purged_before timestamptz NOT NULL
);
INSERT INTO replay_horizon (purged_before) VALUES ('1970-01-01T00:00:00Z');
GRANT SELECT, INSERT, DELETE ON used_jti TO actchain_server;
GRANT SELECT, UPDATE ON replay_horizon TO actchain_server;
