-- Identity providers at which ephemeral agents are registered, as declared.
CREATE TABLE registrar (
    id         text PRIMARY KEY,
    version    bigint NOT NULL,
    settings   jsonb NOT NULL,
    -- The initial access token or client secret of this server there, or an empty value; sealed together with `settings`.
    sealed     text NOT NULL,
    data_key   text NOT NULL REFERENCES data_key,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX registrar_data_key ON registrar (data_key);

-- The outbox: one row for each ephemeral agent and registrar, written in the transaction that creates the agent. What is to be
-- done follows from the delegation and the agent: register once the delegation is active, delete once the agent is deactivated.
CREATE TABLE agent_registration (
    -- Registrar and agent, separated by a slash.
    id              text PRIMARY KEY,
    registrar       text NOT NULL REFERENCES registrar,
    agent           text NOT NULL,
    delegation_id   text NOT NULL,
    created_at      timestamptz NOT NULL,
    -- Time of the first request to register whose answer is not known: the registrar may have registered the agent.
    sent_at         timestamptz,
    registered_at   timestamptz,
    -- The client id at the registrar.
    registered_as   text,
    -- The client configuration endpoint with its access token (RFC 7592 §1.3); null if there is none, and after the end.
    sealed          text,
    data_key        text REFERENCES data_key,
    -- Time since which nothing is left to do.
    closed_at       timestamptz,
    -- Failed attempts, the time of the next one, and the last problem.
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error      text,
    -- The server that sends a request, and the time until which no other server does.
    lease           uuid,
    lease_until     timestamptz
);
CREATE INDEX agent_registration_open ON agent_registration (registrar, created_at, id) WHERE closed_at IS NULL;
CREATE INDEX agent_registration_data_key ON agent_registration (data_key) WHERE sealed IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON registrar, agent_registration TO actchain_server;
