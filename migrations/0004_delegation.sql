-- Facts; states are derived from them. `path` lists the ancestors, root first, and the delegation itself at the end,
-- so that one revoked row ends everything below it. A limit that is NULL does not restrict; an empty one allows nothing.
CREATE TABLE delegation (
    id                    text PRIMARY KEY,
    path                  text[] NOT NULL,
    parent                text REFERENCES delegation,
    root_iss              text NOT NULL,
    root_sub              text NOT NULL,
    delegator_iss         text NOT NULL,
    delegator_sub         text NOT NULL,
    delegate              text NOT NULL REFERENCES client,
    scopes                text[],
    audiences             text[],
    authorization_details jsonb,
    max_depth             integer,
    max_uses              bigint,
    origin                text NOT NULL CHECK (origin IN ('declared', 'may_act')),
    requested_at          timestamptz NOT NULL,
    activated_at          timestamptz,
    expires_at            timestamptz NOT NULL,
    revoked_at            timestamptz,
    revoke_reason         text,
    CHECK (path[cardinality(path)] = id)
);
CREATE INDEX delegation_of_root ON delegation (delegator_sub, delegate, delegator_iss)
    WHERE parent IS NULL AND origin = 'declared';
-- Those that tokens led to end with their tokens, and are forgotten then.
CREATE INDEX delegation_to_forget ON delegation (expires_at) WHERE origin = 'may_act';
CREATE INDEX delegation_of_parent ON delegation (parent, delegate) WHERE parent IS NOT NULL;

-- Only for delegations with a limit; apart, so that counting never touches the row that everybody shares.
CREATE TABLE delegation_usage (
    delegation_id text PRIMARY KEY REFERENCES delegation,
    uses          bigint NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON delegation, delegation_usage TO actchain_server;
GRANT DELETE ON delegation TO actchain_server;
