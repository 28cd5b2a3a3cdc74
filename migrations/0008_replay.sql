-- The replay cache: ids that may be used once, for as long as their token or proof would be accepted.
CREATE TABLE used_jti (
    id         uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX used_jti_expires ON used_jti USING brin (expires_at) WITH (pages_per_range = 16);
GRANT SELECT, INSERT, DELETE ON used_jti TO actchain_server;

-- Ids that expired before this time were deleted. Tokens and proofs from before are refused, even by a server whose clock
-- was set back.
CREATE TABLE replay_horizon (
    singleton     boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    purged_before timestamptz NOT NULL
);
INSERT INTO replay_horizon (purged_before) VALUES ('1970-01-01T00:00:00Z');
GRANT SELECT, UPDATE ON replay_horizon TO actchain_server;
