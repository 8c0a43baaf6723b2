-- The statement that captures any statement with row images, with the key and the columns as they are at this moment;
-- `excluded` are patterns for columns that are in no image. For large statements and rows, for updates that change keys,
-- and for tables that are not what they were when their function was made. An update's old and new rows belong together
-- by key, those of one key in their order, and without a key by their place alone: both come row by row. A change set is
-- cut after 1,000 rows or when it has reached 1 MiB; a larger row has one of its own, and beyond 64 MiB no image.
CREATE OR REPLACE FUNCTION {schema}.capture_images(
    relation oid, operation text, prefix text, slot bigint, old_images boolean, excluded text[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $function$
DECLARE
    columns text[] := {schema}.key_columns(relation);
    key text := {schema}.key_expression(columns);
    image text;
    rows_sql text := 'SELECT %s AS k, %s AS i, pg_catalog.row_number() OVER () AS position FROM %I r';
    pairs_sql text;
    source text;
BEGIN
    SELECT COALESCE('(SELECT pg_catalog.row_to_json(x.*)::pg_catalog.text FROM (SELECT '
               || pg_catalog.string_agg(pg_catalog.format(
                      'CASE WHEN pg_catalog.pg_typeof(r.%1$I)::pg_catalog.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid '
                      'THEN pg_catalog.to_json(r.%1$I) ELSE {schema_literal}.value_to_json(r.%1$I)::pg_catalog.json END AS %1$I',
                      c.name), ', ' ORDER BY c.attnum) || ') x)', '''{}''::pg_catalog.text')
      INTO image
      FROM (SELECT a.attnum, (pg_catalog.pg_identify_object_as_address(
                       'pg_catalog.pg_class'::pg_catalog.regclass, a.attrelid, a.attnum)).object_names[3] AS name
              FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped) c
     WHERE c.name NOT LIKE '........pg.dropped.%' AND NOT (c.name COLLATE pg_catalog."C" LIKE ANY (excluded));
    IF operation = 'UPDATE' THEN
        pairs_sql := CASE pg_catalog.cardinality(columns)
            WHEN 0 THEN $sql$
            SELECT s.*, s.position OPERATOR(pg_catalog.*) %1$s AS pair, 1::pg_catalog.int8 AS nth FROM (%2$s) s$sql$
            ELSE $sql$
            SELECT s.*, s.k AS pair, pg_catalog.row_number() OVER (PARTITION BY s.k ORDER BY s.position) AS nth
              FROM (%2$s) s$sql$
        END;
        -- Without a key and with rows of which only the old or the new one is there, nothing says which belong together.
        source := pg_catalog.format($sql$
            SELECT CASE WHEN n.k IS NULL THEN 1 WHEN o.k IS NULL THEN 3 ELSE 2 END AS phase,
                   CASE WHEN n.k IS NULL THEN 'DELETE' WHEN o.k IS NULL THEN 'INSERT' ELSE 'UPDATE' END AS operation,
                   COALESCE(n.k, o.k) AS k, o.i AS old, n.i AS new, COALESCE(n.position, o.position) AS position
              FROM (%1$s) o
              FULL JOIN (%2$s) n
                     ON n.pair OPERATOR(pg_catalog.=) o.pair AND n.nth OPERATOR(pg_catalog.=) o.nth$sql$,
            pg_catalog.format(pairs_sql,
                '(CASE WHEN (SELECT pg_catalog.count(*) FROM old_rows) OPERATOR(pg_catalog.=) '
                || '(SELECT pg_catalog.count(*) FROM new_rows) THEN 1 ELSE -1 END)::pg_catalog.int8',
                pg_catalog.format(rows_sql, key, CASE WHEN old_images THEN image ELSE 'NULL::pg_catalog.text' END, 'old_rows')),
            pg_catalog.format(pairs_sql, '1::pg_catalog.int8', pg_catalog.format(rows_sql, key, image, 'new_rows')));
    ELSIF operation = 'DELETE' THEN
        source := pg_catalog.format('SELECT 1 AS phase, ''DELETE''::pg_catalog.text AS operation, s.k, s.i AS old,
            NULL::pg_catalog.text AS new, s.position FROM (%s) s',
            pg_catalog.format(rows_sql, key, CASE WHEN old_images THEN image ELSE 'NULL::pg_catalog.text' END, 'old_rows'));
    ELSE
        source := pg_catalog.format('SELECT 3 AS phase, %L::pg_catalog.text AS operation, s.k, NULL::pg_catalog.text AS old,
            s.i AS new, s.position FROM (%s) s', operation, pg_catalog.format(rows_sql, key, image, 'new_rows'));
    END IF;
    RETURN pg_catalog.format($sql$
        INSERT INTO {schema}.change_sets_%1$s (changes, payload) {note}
        SELECT pg_catalog.count(*),
               pg_catalog.concat(%2$L, n.operation, %3$L, pg_catalog.string_agg(n.k, ',' ORDER BY n.position), ']',
                   CASE WHEN %5$L::pg_catalog.bool AND n.phase OPERATOR(pg_catalog.<) 3 THEN pg_catalog.concat(
                       ',"old":[', pg_catalog.string_agg(COALESCE(n.old, 'null'), ',' ORDER BY n.position), ']') END,
                   CASE WHEN n.phase OPERATOR(pg_catalog.>) 1 THEN pg_catalog.concat(
                       ',"new":[', pg_catalog.string_agg(COALESCE(n.new, 'null'), ',' ORDER BY n.position), ']') END, '}')
          FROM (SELECT l.*,
                       (pg_catalog.row_number() OVER w OPERATOR(pg_catalog.-) 1) OPERATOR(pg_catalog./) 1000 AS by_rows,
                       (pg_catalog.sum(l.bytes) OVER w OPERATOR(pg_catalog.-) l.bytes)::pg_catalog.int8
                           OPERATOR(pg_catalog./) 1048576 AS by_bytes,
                       pg_catalog.count(*) FILTER (WHERE l.is_large) OVER w OPERATOR(pg_catalog.*) 2
                           OPERATOR(pg_catalog.-) l.is_large::pg_catalog.int4 AS by_large
                  FROM (SELECT b.*, b.bytes OPERATOR(pg_catalog.>) 1048576 AS is_large
                          FROM (SELECT c.phase, c.operation, c.k, c.position, c.old, c.new,
                                       pg_catalog.octet_length(c.k)::pg_catalog.int8
                                           OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(c.old), 0)
                                           OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(c.new), 0) AS bytes
                                  FROM (SELECT u.phase, u.operation, u.k, u.position,
                                               CASE WHEN pg_catalog.octet_length(u.old) OPERATOR(pg_catalog.<=) 67108864
                                                    THEN u.old END AS old,
                                               CASE WHEN pg_catalog.octet_length(u.new) OPERATOR(pg_catalog.<=) 67108864
                                                    THEN u.new END AS new
                                          FROM (%4$s) u) c) b) l
                WINDOW w AS (PARTITION BY l.phase ORDER BY l.position ROWS UNBOUNDED PRECEDING)) n
         GROUP BY n.phase, n.operation, n.by_rows, n.by_bytes, n.by_large
         ORDER BY n.phase, pg_catalog.min(n.position)$sql$,
        slot, prefix, '","key":' || pg_catalog.to_json(columns)::text || ',"ids":[', source, old_images);
END
$function$;
