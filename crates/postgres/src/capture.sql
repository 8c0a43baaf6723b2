#variable_conflict use_column
DECLARE
    state bigint;
    changed bigint;
    ids text;
    old_ids text;
{variables}    body text;
    by_statement boolean := false;
BEGIN
{attempt}    IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        state := (SELECT w.last_value FROM {schema}.wake_up w {note});
        changed := 1;
        -- With the table's own name: that a partition was emptied is not to be taken for its whole table's.
        body := pg_catalog.concat('{"schema":', pg_catalog.to_json(TG_TABLE_SCHEMA::pg_catalog.text), ',"tbl":',
            pg_catalog.to_json(TG_TABLE_NAME::pg_catalog.text), ',"op":"TRUNCATE"}');
    ELSE
{collect}    END IF;
    IF changed OPERATOR(pg_catalog.=) 0 AND NOT by_statement THEN
        RETURN NULL;
    END IF;
    {cap}
    IF by_statement OR changed OPERATOR(pg_catalog.>) 1000 THEN
{by_statement}
    ELSIF state OPERATOR(pg_catalog.<) 2 THEN
        INSERT INTO {schema}.change_sets_0 (changes, payload)
        VALUES (changed, body) {note};
    ELSIF state OPERATOR(pg_catalog.<) 4 THEN
        INSERT INTO {schema}.change_sets_1 (changes, payload)
        VALUES (changed, body) {note};
    ELSIF state OPERATOR(pg_catalog.<) 6 THEN
        INSERT INTO {schema}.change_sets_2 (changes, payload)
        VALUES (changed, body) {note};
    ELSE
        INSERT INTO {schema}.change_sets_3 (changes, payload)
        VALUES (changed, body) {note};
    END IF;
    IF (state OPERATOR(pg_catalog.%) 2) OPERATOR(pg_catalog.=) 0 THEN
        PERFORM pg_catalog.pg_notify({channel}, '');
    END IF;
    RETURN NULL;
{missed}END
