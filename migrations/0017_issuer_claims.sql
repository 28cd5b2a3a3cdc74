-- How our tokens name the subjects of an issuer, and what is read of its tokens. `(iss, sub)` of our tokens is unique:
-- at most one issuer is raw, and the others have a prefix of their own.
ALTER TABLE issuer
    -- The prefix; a raw issuer has none.
    ADD COLUMN alias text CHECK (alias ~ '^[a-z0-9-]{1,32}$'),
    -- When the form changed: tokens of ours from before say their subject in another way.
    ADD COLUMN subject_changed_at timestamptz,
    ADD COLUMN may_act text NOT NULL DEFAULT 'restrict' CHECK (may_act IN ('authorize', 'restrict', 'ignore')),
    -- The claims that hold scopes; `scope` and `scp` where it is null.
    ADD COLUMN scope_claims text[];

-- Issuers that were declared before keep their names as far as these are unique.
UPDATE issuer SET alias = 'issuer-' || numbered.number
    FROM (SELECT iss, row_number() OVER (ORDER BY iss) AS number FROM issuer) AS numbered
    WHERE numbered.iss = issuer.iss AND numbered.number > 1;

-- Deferred, so that two issuers may exchange their forms in one transaction.
ALTER TABLE issuer
    ADD COLUMN subject_prefix text GENERATED ALWAYS AS (coalesce(alias, '')) STORED,
    ADD CONSTRAINT issuer_subject_prefix_unique UNIQUE (subject_prefix) DEFERRABLE INITIALLY DEFERRED;
