-- The role that every connection of a running server takes on. Roles belong to the whole cluster: another database of the
-- same cluster may have created the role already.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'actchain_server') THEN
        CREATE ROLE actchain_server NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;
-- Since version 16, the creator of a role may administer the role, but must grant itself the right to take the role on.
DO $$
DECLARE
    right_needed text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    IF NOT pg_has_role(current_user, 'actchain_server', right_needed) THEN
        EXECUTE format('GRANT actchain_server TO %I', current_user);
    END IF;
END
$$;
GRANT USAGE ON SCHEMA public TO actchain_server;
-- A server compares the applied migrations with its own before it uses the database.
GRANT SELECT ON _sqlx_migrations TO actchain_server;
