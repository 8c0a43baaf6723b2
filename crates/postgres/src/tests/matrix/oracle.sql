-- What really changed, noted by row triggers that share nothing with the product: the test's own memory of the truth.
-- Takes no lock but those of inserting a row.
CREATE SCHEMA oracle;
GRANT USAGE ON SCHEMA oracle TO PUBLIC;

CREATE TABLE oracle.log (
    n            bigserial PRIMARY KEY,
    -- The same for all that one message of a client does, and for nothing else.
    statement    text NOT NULL DEFAULT concat(current_query(), E'\n', pg_backend_pid(), ' ', statement_timestamp()),
    root         text NOT NULL,
    own          text NOT NULL,
    operation    text NOT NULL,
    old          text,
    new          text
);

CREATE FUNCTION oracle.location(relation oid) RETURNS text LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT concat(CASE n.nspname WHEN 'public' THEN NULL ELSE n.nspname || '.' END, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation
$$;

CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
SET TimeZone = 'UTC' SET bytea_output = 'hex' SET extra_float_digits = 1 SET IntervalStyle = 'postgres' SET DateStyle = 'ISO, MDY' AS $$
BEGIN
    INSERT INTO oracle.log (root, own, operation, old, new)
    VALUES (oracle.location(COALESCE(pg_partition_root(TG_RELID), TG_RELID)), oracle.location(TG_RELID), TG_OP,
            CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_json(OLD) END,
            CASE WHEN TG_OP IN ('UPDATE', 'INSERT') THEN to_json(NEW) END);
    RETURN NULL;
END $$;

-- Watches all tables that are not watched yet. A partition has its row trigger from its parent.
CREATE FUNCTION oracle.watch() RETURNS void LANGUAGE plpgsql AS $$
DECLARE relation record;
BEGIN
    FOR relation IN
        SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
           AND n.nspname !~ '^(pg_|dapper_|oracle$|information_schema$)'
         ORDER BY c.relispartition, c.oid
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation.oid AND tgname = 'zz_oracle') THEN
            EXECUTE 'CREATE TRIGGER zz_oracle AFTER INSERT OR UPDATE OR DELETE ON ' || relation.name
                 || ' FOR EACH ROW EXECUTE FUNCTION oracle.note()';
        END IF;
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation.oid AND tgname = 'zz_oracle_truncate') THEN
            EXECUTE 'CREATE TRIGGER zz_oracle_truncate AFTER TRUNCATE ON ' || relation.name
                 || ' FOR EACH STATEMENT EXECUTE FUNCTION oracle.note()';
        END IF;
    END LOOP;
END $$;

-- All rows of the tables of the schemas that match, each with the table that it is in. Does not wait for a transaction that
-- has truncated one of them: it may be the caller's own other session.
CREATE FUNCTION oracle.contents(tables text) RETURNS text LANGUAGE plpgsql
SET search_path = '' SET lock_timeout = '30ms' AS $$
DECLARE
    relation record;
    rows text;
    everything text := '';
BEGIN
    FOR relation IN
        SELECT format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND (n.nspname || '.' || c.relname) ~ tables
           AND n.nspname !~ '^(pg_|dapper_|oracle$|information_schema$)'
         ORDER BY 1
    LOOP
        EXECUTE format('SELECT string_agg(t::text, E''\n'' ORDER BY t::text) FROM ONLY %s t', relation.name) INTO rows;
        everything := concat(everything, relation.name, E':\n', rows, E'\n');
    END LOOP;
    RETURN everything;
END $$;
