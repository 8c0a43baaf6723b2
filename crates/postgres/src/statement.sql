-- The statement that captures any statement, with the key as it is at this moment: for large statements, for updates
-- that change keys, and for tables whose key is not what it was when their function was made. It runs inside a trigger,
-- with the search_path of whoever wrote, so every name in it is qualified.
CREATE OR REPLACE FUNCTION {schema}.capture_statement(relation oid, operation text, prefix text, slot bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $function$
DECLARE
    columns text[] := {schema}.key_columns(relation);
    key text := {schema}.key_expression(columns);
    source text;
BEGIN
    IF operation = 'UPDATE' AND pg_catalog.cardinality(columns) > 0 THEN
        -- ALL, because a column called id may name several rows alike, and each has its event.
        source := pg_catalog.format($sql$
            SELECT 1 AS phase, 'DELETE'::pg_catalog.text AS operation, gone.k
              FROM (SELECT %1$s AS k FROM old_rows r EXCEPT ALL SELECT %1$s FROM new_rows r) gone
            UNION ALL
            SELECT 2, 'UPDATE', kept.k
              FROM (SELECT %1$s AS k FROM new_rows r INTERSECT ALL SELECT %1$s FROM old_rows r) kept
            UNION ALL
            SELECT 3, 'INSERT', come.k
              FROM (SELECT %1$s AS k FROM new_rows r EXCEPT ALL SELECT %1$s FROM old_rows r) come$sql$, key);
    ELSE
        source := pg_catalog.format('SELECT 1 AS phase, %L::pg_catalog.text AS operation, %s AS k FROM %s r',
            operation, key, CASE operation WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END);
    END IF;
    RETURN pg_catalog.format($sql$
        INSERT INTO {schema}.change_sets_%1$s (changes, payload) {note}
        SELECT pg_catalog.count(*),
               pg_catalog.concat(%2$L, n.operation, %3$L, pg_catalog.string_agg(n.k, ','), ']}')
          FROM (SELECT c.phase, c.operation, c.k,
                       (pg_catalog.row_number() OVER (PARTITION BY c.phase) OPERATOR(pg_catalog.-) 1)
                           OPERATOR(pg_catalog./) 1000 AS chunk
                  FROM (%4$s) c) n
         GROUP BY n.phase, n.operation, n.chunk
         ORDER BY n.phase, n.chunk$sql$,
        slot, prefix, '","key":' || pg_catalog.to_json(columns)::text || ',"ids":[', source);
END
$function$;
