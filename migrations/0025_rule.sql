-- The rules that were declared, and the ids of the rules that are off: one row, written as a whole, so that its MAC covers which
-- rules there are. Without the row, nothing was declared.
CREATE TABLE rule_set (
    name      text PRIMARY KEY CHECK (name = 'declared'),
    version   bigint NOT NULL,
    rules     jsonb NOT NULL,
    rules_off text[] NOT NULL,
    mac       bytea
);
GRANT SELECT, INSERT, UPDATE ON rule_set TO actchain_server;
