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
                    -- A row that moves to a partition whose trigger drops it is in old_rows alone.
                    by_statement := COALESCE(old_ids OPERATOR(pg_catalog.<>) ids,
                        (old_ids IS NULL) OPERATOR(pg_catalog.<>) (ids IS NULL));
                END IF;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            state := (SELECT w.last_value FROM {schema}.wake_up w {note});
            changed := 1;
            by_statement := true;
        END;
        body := pg_catalog.concat({prefix}, TG_OP, {middle}, ids, ']}');
