-- The role that every connection of a running server takes on. Roles belong to the whole cluster, so another
-- database of the same cluster may have made it already.
DO $$
BEGIN
    CREATE ROLE actchain_server NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'actchain_server', 'MEMBER') THEN
        EXECUTE format('GRANT actchain_server TO %I', current_user);
    END IF;
END
$$;
GRANT USAGE ON SCHEMA public TO actchain_server;
GRANT SELECT ON _sqlx_migrations TO actchain_server;
