        -- For a few rows; old and new ones are in the same order. More are left to the statement that cuts them into
        -- several change sets, and so are large ones.
        BEGIN
            IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
                SELECT (SELECT w.last_value FROM {schema}.wake_up w), pg_catalog.count(*),
                       pg_catalog.string_agg(n.k, ','), pg_catalog.string_agg(n.i, ',')
                  INTO state, changed, ids, old_images
                  FROM (SELECT {key} AS k, {old_image} AS i FROM {old_rows} r LIMIT 17) n;
            ELSE
                SELECT (SELECT w.last_value FROM {schema}.wake_up w), pg_catalog.count(*),
                       pg_catalog.string_agg(n.k, ','), pg_catalog.string_agg(n.i, ',')
                  INTO state, changed, ids, new_images
                  FROM (SELECT {key} AS k, {new_image} AS i FROM {new_rows} r LIMIT 17) n;
                IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
                    SELECT pg_catalog.string_agg(n.k, ','), pg_catalog.string_agg(n.i, ',')
                      INTO old_ids, old_images
                      FROM (SELECT {key} AS k, {old_image} AS i FROM {old_rows} r LIMIT 17) n;
                    by_statement := COALESCE(old_ids OPERATOR(pg_catalog.<>) ids,
                        (old_ids IS NULL) OPERATOR(pg_catalog.<>) (ids IS NULL));
                END IF;
            END IF;
            by_statement := by_statement OR changed OPERATOR(pg_catalog.>) 16
                OR (COALESCE(pg_catalog.octet_length(ids), 0)::pg_catalog.int8
                    OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(old_images), 0)
                    OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(new_images), 0)) OPERATOR(pg_catalog.>) 1048576;
        EXCEPTION WHEN OTHERS THEN
            state := (SELECT w.last_value FROM {schema}.wake_up w {note});
            changed := 1;
            by_statement := true;
        END;
        IF NOT by_statement THEN
            body := pg_catalog.concat({prefix}, TG_OP, {middle}, ids, ']',
                ',"old":[' OPERATOR(pg_catalog.||) old_images OPERATOR(pg_catalog.||) ']',
                ',"new":[' OPERATOR(pg_catalog.||) new_images OPERATOR(pg_catalog.||) ']', '}');
        END IF;
