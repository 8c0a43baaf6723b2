-- Layout 1 as it was, with the names of the input `orders-input`, for the test that brings it up to date.

CREATE SCHEMA IF NOT EXISTS dapper_orders_input;

-- Where the reader is. One row for each partition of the keys; there is one partition. Every writer of this row says
-- WHERE token = its own: the fence.
CREATE TABLE dapper_orders_input.cursors (
    partition         integer     PRIMARY KEY,
    token             bigint      NOT NULL,
    prev              pg_snapshot NOT NULL,
    target            pg_snapshot,
    done              bigint      NOT NULL,
    claimed           pg_snapshot,
    claimed_seq       bigint      NOT NULL,
    attempt           integer     NOT NULL,
    version           bigint      NOT NULL,
    system_identifier bigint      NOT NULL,
    timeline          bigint      NOT NULL,
    rotated_at        timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 50);

INSERT INTO dapper_orders_input.cursors
SELECT 0, 0, '1:1:', NULL, 0, NULL, 0, 0, 0, c.system_identifier, 1
  FROM pg_catalog.pg_control_system() c;

-- Draws the position of a change set. CACHE stays 1: with more, changes of one row come out in another order.
CREATE SEQUENCE dapper_orders_input.change_sets_seq CACHE 1;

-- Twice the number of the slot that writers write to, plus one while the reader is awake and needs no NOTIFY. A
-- sequence, because its value is seen at once, whatever the snapshot of who looks. Not an unlogged one: created while a
-- standby streams, it is unreadable once that is promoted (seen on 15.18).
CREATE SEQUENCE dapper_orders_input.wake_up MINVALUE 0 START 0;

-- What changed: one row for each statement, or for each 1,000 rows of it. The slots are filled in turn, and a slot that
-- is read is truncated.
CREATE TABLE dapper_orders_input.change_sets (
    seq         bigint      NOT NULL DEFAULT pg_catalog.nextval('dapper_orders_input.change_sets_seq'),
    xid         xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    captured_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    id          uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    changes     integer     NOT NULL,
    payload     text        NOT NULL
);
CREATE TABLE dapper_orders_input.change_sets_0 () INHERITS (dapper_orders_input.change_sets);
CREATE TABLE dapper_orders_input.change_sets_1 () INHERITS (dapper_orders_input.change_sets);
CREATE INDEX ON dapper_orders_input.change_sets_0 (xid);
CREATE INDEX ON dapper_orders_input.change_sets_1 (xid);
CREATE INDEX ON dapper_orders_input.change_sets_0 (seq);
CREATE INDEX ON dapper_orders_input.change_sets_1 (seq);

-- The columns that name a row: those of the primary key; else of the replica identity; else of a unique index without
-- nulls; else a column called id; else none.
CREATE FUNCTION dapper_orders_input.key_columns(relation oid) RETURNS text[]
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

-- The statement that captures any statement, with the key as it is at this moment: for large statements, for updates
-- that change keys, and for tables whose key is not what it was when their function was made. It runs inside a trigger,
-- with the search_path of whoever wrote, so every name in it is qualified.
CREATE FUNCTION dapper_orders_input.capture_statement(relation oid, operation text, prefix text, slot bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $function$
DECLARE
    columns text[] := dapper_orders_input.key_columns(relation);
    values text;
    key text;
    source text;
BEGIN
    SELECT pg_catalog.string_agg(
               pg_catalog.format('COALESCE(pg_catalog.to_json(r.%I)::pg_catalog.text, ''null'')', c.name),
               ', '','', ' ORDER BY c.position)
      INTO values
      FROM pg_catalog.unnest(columns) WITH ORDINALITY c(name, position);
    key := CASE pg_catalog.cardinality(columns)
        WHEN 0 THEN '''null''::pg_catalog.text'
        WHEN 1 THEN values
        ELSE 'pg_catalog.concat(''['', ' || values || ', '']'')'
    END;
    IF operation = 'UPDATE' AND pg_catalog.cardinality(columns) > 0 THEN
        source := pg_catalog.format($sql$
            SELECT 1 AS phase, 'DELETE'::pg_catalog.text AS operation, gone.k
              FROM (SELECT %1$s AS k FROM old_rows r EXCEPT SELECT %1$s FROM new_rows r) gone
            UNION ALL
            SELECT 2, 'UPDATE', kept.k
              FROM (SELECT %1$s AS k FROM new_rows r INTERSECT SELECT %1$s FROM old_rows r) kept
            UNION ALL
            SELECT 3, 'INSERT', come.k
              FROM (SELECT %1$s AS k FROM new_rows r EXCEPT SELECT %1$s FROM old_rows r) come$sql$, key);
    ELSE
        source := pg_catalog.format('SELECT 1 AS phase, %L::pg_catalog.text AS operation, %s AS k FROM %s r',
            operation, key, CASE operation WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END);
    END IF;
    RETURN pg_catalog.format($sql$
        INSERT INTO dapper_orders_input.change_sets_%1$s (changes, payload)
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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA dapper_orders_input FROM PUBLIC;
