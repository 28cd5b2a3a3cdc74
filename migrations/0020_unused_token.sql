-- Tokens of providers that no connection has: newer tokens have replaced them, or they were not accepted. Kept until the
-- provider has revoked them, at most for a day.
CREATE TABLE unused_token (
    id         text PRIMARY KEY,
    provider   text NOT NULL REFERENCES provider,
    sealed     text NOT NULL,
    data_key   text NOT NULL REFERENCES data_key,
    created_at timestamptz NOT NULL,
    -- No request is sent to the provider before this time.
    retry_at   timestamptz NOT NULL
);
CREATE INDEX unused_token_of_provider ON unused_token (provider);
CREATE INDEX unused_token_data_key ON unused_token (data_key);
GRANT SELECT, INSERT, UPDATE, DELETE ON unused_token TO actchain_server;
