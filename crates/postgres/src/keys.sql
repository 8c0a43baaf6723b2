-- The columns that name a row: those of the primary key; else of the replica identity; else of a unique index without
-- nulls; else a column called id; else none.
CREATE OR REPLACE FUNCTION {schema}.key_columns(relation oid) RETURNS text[]
LANGUAGE sql STABLE SET search_path = '' AS $function$
    SELECT COALESCE(
        (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.position)
           FROM (SELECT i.indkey::int2[] AS indkey, i.indnkeyatts
                   FROM pg_catalog.pg_index i
                  WHERE i.indrelid = relation AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                    AND NOT EXISTS (
                        SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY n(attnum, position)
                          LEFT JOIN pg_catalog.pg_attribute na
                                 ON na.attrelid = i.indrelid AND na.attnum = n.attnum AND n.attnum > 0
                         WHERE n.position <= i.indnkeyatts AND na.attnotnull IS NOT TRUE)
                  ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid
                  LIMIT 1) best
          CROSS JOIN LATERAL pg_catalog.unnest(best.indkey) WITH ORDINALITY k(attnum, position)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = relation AND a.attnum = k.attnum
          WHERE k.position <= best.indnkeyatts),
        (SELECT ARRAY[a.attname::text]
           FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = relation AND a.attname = 'id' AND a.attnum > 0 AND NOT a.attisdropped),
        '{}')
$function$;

-- The expression for the key of row `r`, as JSON.
CREATE OR REPLACE FUNCTION {schema}.key_expression(columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $function$
    SELECT CASE pg_catalog.count(*)
               WHEN 0 THEN '''null''::pg_catalog.text'
               WHEN 1 THEN pg_catalog.min(v.value)
               ELSE 'pg_catalog.concat(''['', ' || pg_catalog.string_agg(v.value, ', '','', ' ORDER BY v.position)
                    || ', '']'')'
           END
      FROM (SELECT c.position,
                   pg_catalog.format('COALESCE(pg_catalog.to_json(r.%I)::pg_catalog.text, ''null'')', c.name) AS value
              FROM pg_catalog.unnest(columns) WITH ORDINALITY c(name, position)) v
$function$;
