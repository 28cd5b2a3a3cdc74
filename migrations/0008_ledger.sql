-- What may be used once, while anybody would still accept it.
CREATE TABLE spent_id (
    id        uuid PRIMARY KEY,
    forget_at timestamptz NOT NULL
);
CREATE INDEX spent_id_forget ON spent_id USING brin (forget_at) WITH (pages_per_range = 16);
-- Up to where ids were forgotten. Whatever would be forgotten by now is refused even if a clock that was set back
-- would accept it again.
CREATE TABLE spent_horizon (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    forgotten timestamptz NOT NULL
);
INSERT INTO spent_horizon (forgotten) VALUES ('1970-01-01T00:00:00Z');
GRANT SELECT, INSERT, DELETE ON spent_id TO actchain_server;
GRANT SELECT, UPDATE ON spent_horizon TO actchain_server;
