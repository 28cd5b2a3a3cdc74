-- Steps that agents reported under an id of their own: each is recorded once before and once after it is done, and counts
-- one use. Rows are kept as long as the delegation, and at least a day.
CREATE TABLE reported_step (
    delegation_id text NOT NULL,
    tool_use_id   text NOT NULL,
    is_done       boolean NOT NULL,
    -- A MAC of the use of the tool: another use under the same id is another step.
    content       bytea NOT NULL,
    kept_until    timestamptz NOT NULL,
    PRIMARY KEY (delegation_id, tool_use_id)
);
CREATE INDEX reported_step_age ON reported_step (kept_until);
GRANT SELECT, INSERT, UPDATE (is_done, content, kept_until), DELETE ON reported_step TO actchain_server;

-- Events of steps whose texts are beside the log. The texts end with the row: on request, or with `sessions.text_retention`.
CREATE TABLE audit_step_text (
    seq         bigint PRIMARY KEY,
    session_id  text NOT NULL,
    reported_at timestamptz NOT NULL
);
CREATE INDEX audit_step_text_session ON audit_step_text (session_id);
CREATE INDEX audit_step_text_age ON audit_step_text (reported_at);
GRANT SELECT, INSERT, UPDATE (reported_at), DELETE ON audit_step_text TO actchain_server;

-- Clears the personal data of steps, with the salt. The server's role can change nothing else of an event.
CREATE FUNCTION audit_clear_steps(seqs bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    cleared bigint;
BEGIN
    UPDATE audit_event SET personal = NULL
    WHERE seq = ANY (seqs) AND personal IS NOT NULL AND document::jsonb ->> 'action' = 'delegation.step';
    GET DIAGNOSTICS cleared = ROW_COUNT;
    RETURN cleared;
END
$$;
REVOKE ALL ON FUNCTION audit_clear_steps FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_clear_steps TO actchain_server;
