-- Covers a table in the transaction that makes it, so that nothing is written to it before: with a function that asks the
-- catalog at each statement for what it needs to know. The next comparison puts a faster one in its place, which takes no
-- lock on the table. Runs at the end of other people's DDL, whose statement must never fail because of it.
DECLARE
    made record;
    body text;
BEGIN
    FOR made IN
        SELECT c.oid, n.nspname AS schema, c.relname AS name,
               COALESCE(rn.nspname, n.nspname) AS root_schema, COALESCE(r.relname, c.relname) AS root_name
          FROM (SELECT DISTINCT d.objid FROM pg_catalog.pg_event_trigger_ddl_commands() d
                 WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass) d
          JOIN pg_catalog.pg_class c ON c.oid = d.objid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_class r ON c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid)
          LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                             JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
                            WHERE g.tgrelid = c.oid AND p.proname = 'capture_' || c.oid
                              AND p.pronamespace = {schema_literal}::pg_catalog.regnamespace)
    LOOP
        IF {root_matches} THEN
            NULL;
        ELSIF {own_matches} THEN
            made.root_schema := made.schema;
            made.root_name := made.name;
        ELSE
            CONTINUE;
        END IF;
        -- A name with a quote, a backslash or a line break is left to the comparison, which knows how to write it.
        CONTINUE WHEN pg_catalog.concat(made.root_schema, made.root_name) ~ E'[\\x01-\\x1f"''\\\\]';
        body := pg_catalog.replace({body}, {schema_marker},
            CASE made.root_schema WHEN 'public' THEN ''
                 ELSE pg_catalog.concat('"schema":', pg_catalog.to_json(made.root_schema::text), ',') END);
        body := pg_catalog.replace(body, {name_marker}, pg_catalog.to_json(made.root_name::text)::text);
        -- By the names of the table and of all that it is a part of.
        body := pg_catalog.replace(body, {excluded_marker}, pg_catalog.format('%L::pg_catalog.text[]', ARRAY(
            WITH RECURSIVE up(oid) AS (
                SELECT made.oid UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
            SELECT DISTINCT p.column_like
              FROM (VALUES {excluded_columns}) p(schema_like, table_like, column_like)
              JOIN pg_catalog.pg_class c ON c.relname LIKE p.table_like
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname LIKE p.schema_like
             WHERE c.oid IN (SELECT u.oid FROM up u))));
        EXECUTE pg_catalog.format(
            'CREATE OR REPLACE FUNCTION {schema_text}.%1$I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER{settings} AS %2$L;'
            'REVOKE ALL ON FUNCTION {schema_text}.%1$I() FROM PUBLIC', 'capture_' || made.oid, body);
{triggers}
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    -- The comparison will cover it, or say why not.
    RAISE LOG 'dapper: new tables are not covered yet: %', SQLERRM;
END
