    -- Nothing is recorded of the statement, and it passes. What the application must see, such as a conflict that it is to
    -- try again after, is not ours to catch. The count is a sequence's, which stays whatever becomes of the transaction.
    EXCEPTION
        WHEN transaction_rollback THEN
            RAISE;
        WHEN OTHERS THEN
            BEGIN
                PERFORM pg_catalog.nextval('{schema_literal}.missed');
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
            RAISE WARNING USING
                MESSAGE = pg_catalog.concat({who}, ' could not record a change of ', TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, ': ', SQLERRM),
                DETAIL = pg_catalog.concat('The error was ', SQLSTATE, '; on_capture_error is "skip", so the statement passes and its changes are missed.'),
                HINT = 'Run dapper doctor; see that what dapper should have done is done for this table.';
            RETURN NULL;
    END;
