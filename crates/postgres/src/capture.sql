#variable_conflict use_column
DECLARE
    state bigint;
    changed bigint;
    ids text;
    old_ids text;
    body text;
    by_statement boolean := false;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        state := (SELECT w.last_value FROM {schema}.wake_up w);
        changed := 1;
        -- With the table's own name: that a partition was emptied is not to be taken for its whole table's.
        body := pg_catalog.concat('{"schema":', pg_catalog.to_json(TG_TABLE_SCHEMA::pg_catalog.text), ',"tbl":',
            pg_catalog.to_json(TG_TABLE_NAME::pg_catalog.text), ',"op":"TRUNCATE"}');
    ELSE
        BEGIN
            IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
                SELECT (SELECT w.last_value FROM {schema}.wake_up w), pg_catalog.count(*), pg_catalog.string_agg({key}, ',')
                  INTO state, changed, ids
                  FROM (SELECT {columns} FROM old_rows o LIMIT 1001) r;
            ELSE
                SELECT (SELECT w.last_value FROM {schema}.wake_up w), pg_catalog.count(*), pg_catalog.string_agg({key}, ',')
                  INTO state, changed, ids
                  FROM (SELECT {columns} FROM new_rows o LIMIT 1001) r;
                IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
                    SELECT pg_catalog.string_agg({key}, ',')
                      INTO old_ids
                      FROM (SELECT {columns} FROM old_rows o LIMIT 1001) r;
                    by_statement := COALESCE(old_ids OPERATOR(pg_catalog.<>) ids, false);
                END IF;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            state := (SELECT w.last_value FROM {schema}.wake_up w);
            changed := 1;
            by_statement := true;
        END;
        body := pg_catalog.concat({prefix}, TG_OP, {middle}, ids, ']}');
    END IF;
    IF changed OPERATOR(pg_catalog.=) 0 THEN
        RETURN NULL;
    END IF;
    {cap}
    IF by_statement OR changed OPERATOR(pg_catalog.>) 1000 THEN
        EXECUTE {schema}.capture_statement(TG_RELID, TG_OP, {prefix}, state OPERATOR(pg_catalog./) 2);
    ELSIF state OPERATOR(pg_catalog.<) 2 THEN
        INSERT INTO {schema}.change_sets_0 (changes, payload)
        VALUES (changed, body);
    ELSIF state OPERATOR(pg_catalog.<) 4 THEN
        INSERT INTO {schema}.change_sets_1 (changes, payload)
        VALUES (changed, body);
    ELSIF state OPERATOR(pg_catalog.<) 6 THEN
        INSERT INTO {schema}.change_sets_2 (changes, payload)
        VALUES (changed, body);
    ELSE
        INSERT INTO {schema}.change_sets_3 (changes, payload)
        VALUES (changed, body);
    END IF;
    IF (state OPERATOR(pg_catalog.%) 2) OPERATOR(pg_catalog.=) 0 THEN
        PERFORM pg_catalog.pg_notify({channel}, '');
    END IF;
    RETURN NULL;
END
