-- Receivers of the audit log.
CREATE TABLE audit_sink (
    id              text PRIMARY KEY,
    url             text NOT NULL,
    format          text NOT NULL CHECK (format IN ('json', 'ndjson', 'ocsf', 'cef')),
    -- Limits of one request, where the sink accepts several events at once.
    batch_events    integer,
    batch_bytes     integer,
    filter          jsonb NOT NULL,
    -- Whether events are sent with the names of users and their personal data.
    people          boolean NOT NULL DEFAULT false,
    -- The secret of the sink, and for a while the secret before.
    sealed          text NOT NULL,
    data_key        text NOT NULL REFERENCES data_key,
    -- Time since which nothing is delivered.
    disabled_at     timestamptz,
    disabled_reason text,
    -- The next event to deliver, the number of failed attempts, and the time of the next attempt.
    cursor          bigint NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error      text,
    delivered_at    timestamptz,
    -- The server that delivers, and the time until which no other server does.
    lease           uuid,
    lease_until     timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    CHECK ((batch_events IS NULL) = (batch_bytes IS NULL))
);
CREATE INDEX audit_sink_data_key ON audit_sink (data_key);

-- Events that a sink did not accept.
CREATE TABLE audit_dead_letter (
    sink     text NOT NULL REFERENCES audit_sink ON DELETE CASCADE,
    seq      bigint NOT NULL,
    attempts integer NOT NULL,
    error    text NOT NULL,
    at       timestamptz NOT NULL,
    -- Whether to deliver the event again.
    replay   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (sink, seq)
);
CREATE INDEX audit_dead_letter_replay ON audit_dead_letter (sink, seq) WHERE replay;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit_sink, audit_dead_letter TO actchain_server;
