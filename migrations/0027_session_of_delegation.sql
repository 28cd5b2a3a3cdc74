-- The session of the newest exchange under a delegation: a report of steps that names no session is in it. The row is written
-- by each exchange anyway, and locked by each report.
ALTER TABLE delegation_usage ADD COLUMN session_id text, ADD COLUMN session_at timestamptz;
