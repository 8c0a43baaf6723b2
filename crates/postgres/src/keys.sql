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
                   pg_catalog.format('COALESCE(CASE WHEN pg_catalog.pg_typeof(r.%1$I)::pg_catalog.oid OPERATOR(pg_catalog.<) '
                       '16384::pg_catalog.oid THEN pg_catalog.to_json(r.%1$I)::pg_catalog.text '
                       'ELSE %2$s.value_to_json(r.%1$I) END, ''null'')', c.name, '{schema_literal}') AS value
              FROM pg_catalog.unnest(columns) WITH ORDINALITY c(name, position)) v
$function$;

-- A value of a type that is not the server's own, as `to_json` writes it, but without the casts to json that `to_json`
-- would run with our rights for enums, ranges and types of extensions, at any depth: such a value is its text. Output
-- functions are the server's, or a superuser's. A type that the statement's snapshot does not show as it is, an array with
-- other delimiters than commas, and one of several dimensions over composite types are text as a whole. It sets no
-- search_path, so that the text of names is what it is elsewhere in the function that calls it.
CREATE OR REPLACE FUNCTION {schema}.value_to_json(value anyelement) RETURNS text
LANGUAGE plpgsql STABLE STRICT AS $function$
DECLARE
    type record;
    source text;
    result text;
BEGIN
    IF pg_catalog.pg_typeof(value)::pg_catalog.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid THEN
        RETURN pg_catalog.to_json(value);
    END IF;
    SELECT t.typtype, t.typrelid, t.typbasetype, e.typtype AS element, e.typdelim AS delimiter,
           t.typcategory OPERATOR(pg_catalog.=) 'A' AND t.typelem OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AS is_array
      INTO type
      FROM pg_catalog.pg_type t
      LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem
     WHERE t.oid OPERATOR(pg_catalog.=) pg_catalog.pg_typeof(value)::pg_catalog.oid;
    IF type.typtype OPERATOR(pg_catalog.=) 'd' THEN
        source := pg_catalog.format('SELECT {schema_literal}.value_to_json($1::%s)', pg_catalog.format_type(type.typbasetype, NULL));
    ELSIF type.typtype OPERATOR(pg_catalog.=) 'c' THEN
        SELECT pg_catalog.format('SELECT pg_catalog.concat(''{'', %s, ''}'')', pg_catalog.string_agg(pg_catalog.format(
                   '%L, COALESCE({schema_literal}.value_to_json(($1).%I), ''null'')',
                   pg_catalog.concat(pg_catalog.to_json(a.attname::pg_catalog.text), ':'), a.attname), ', '','', ' ORDER BY a.attnum))
          INTO source
          FROM pg_catalog.pg_attribute a
         WHERE a.attrelid OPERATOR(pg_catalog.=) type.typrelid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped;
    ELSIF type.is_array AND (type.element OPERATOR(pg_catalog.=) 'c' OR type.element OPERATOR(pg_catalog.=) 'd') THEN
        source := 'SELECT CASE WHEN pg_catalog.array_ndims($1) OPERATOR(pg_catalog.>) 1 THEN '
            'pg_catalog.to_json(pg_catalog.concat($1))::pg_catalog.text ELSE (SELECT pg_catalog.concat(''['', '
            'pg_catalog.string_agg(COALESCE({schema_literal}.value_to_json(($1)[n.n]), ''null''), '','' ORDER BY n.n), '']'') '
            'FROM pg_catalog.generate_subscripts($1, 1) n(n)) END';
    ELSIF type.is_array AND type.delimiter OPERATOR(pg_catalog.=) ',' THEN
        RETURN pg_catalog.to_json(pg_catalog.concat(value)::pg_catalog.text[]);
    END IF;
    IF source IS NOT NULL THEN
        BEGIN
            EXECUTE source INTO result USING value;
            RETURN result;
        EXCEPTION WHEN undefined_object OR undefined_column OR undefined_table OR datatype_mismatch THEN
            NULL;
        END;
    END IF;
    RETURN pg_catalog.to_json(pg_catalog.concat(value));
END
$function$;
