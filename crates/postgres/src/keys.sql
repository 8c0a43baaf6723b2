-- The columns that name a row: those of the primary key; else of the replica identity; else of a unique index without
-- nulls; else a column called id; else none. A partition goes by the key of its root, so that a row has one key however it
-- is written. Tables are seen with the statement's snapshot, which in a transaction that keeps one may be older than the
-- columns' names; the names are those of this moment, since the statement is made with them.
CREATE OR REPLACE FUNCTION {schema}.key_columns(relation oid) RETURNS text[]
LANGUAGE sql STABLE SET search_path = '' AS $function$
    SELECT COALESCE(
        (SELECT pg_catalog.array_agg(c.name ORDER BY c.position)
           FROM (SELECT k.position, (pg_catalog.pg_identify_object_as_address(
                            'pg_catalog.pg_class'::pg_catalog.regclass, named.oid, k.attnum)).object_names[3] AS name
                   FROM (SELECT i.indkey::int2[] AS indkey, i.indnkeyatts
                           FROM pg_catalog.pg_index i
                          WHERE i.indrelid = named.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                            AND NOT EXISTS (
                                SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY n(attnum, position)
                                  LEFT JOIN pg_catalog.pg_attribute na
                                         ON na.attrelid = i.indrelid AND na.attnum = n.attnum AND n.attnum > 0
                                 WHERE n.position <= i.indnkeyatts AND na.attnotnull IS NOT TRUE)
                          ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid
                          LIMIT 1) best
                  CROSS JOIN LATERAL pg_catalog.unnest(best.indkey) WITH ORDINALITY k(attnum, position)
                  WHERE k.position <= best.indnkeyatts) c
         HAVING pg_catalog.bool_and(c.name NOT LIKE '........pg.dropped.%')),
        (SELECT ARRAY[c.name]
           FROM (SELECT (pg_catalog.pg_identify_object_as_address(
                            'pg_catalog.pg_class'::pg_catalog.regclass, a.attrelid, a.attnum)).object_names[3] AS name
                   FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = named.oid AND a.attname = 'id' AND a.attnum > 0 AND NOT a.attisdropped) c
          WHERE c.name NOT LIKE '........pg.dropped.%'),
        '{}')
      FROM (SELECT COALESCE(pg_catalog.pg_partition_root(relation)::oid, relation) AS oid) named
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
