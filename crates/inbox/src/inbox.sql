-- Everything of the inbox: run it as one transaction, as the role that is to own it. It can be run again: what is there
-- stays. The schema's name stands for nothing else and in no comment; the crate puts in another where one is wanted.
--
-- Locks: making what is not there yet takes none that an application's statement needs. Whoever runs this by hand while
-- others do gets an error for one of the two at worst; the crate runs it under an advisory lock.

CREATE SCHEMA IF NOT EXISTS dapper_inbox;

-- One row. An event's id is remembered for at least `retention` after the event was accepted.
CREATE TABLE IF NOT EXISTS dapper_inbox.settings (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    retention interval NOT NULL CHECK (retention >= interval '1 hour')
);

INSERT INTO dapper_inbox.settings (retention) VALUES (interval '7 days') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS dapper_inbox.consumers (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- The highest fencing token that a consumer has seen of an input. Written when an input's holder changes, and share-locked
-- by every transaction that accepts an event with that token: so a higher one waits until they have ended, and a lower one
-- that comes later finds the higher one.
CREATE TABLE IF NOT EXISTS dapper_inbox.tokens (
    consumer text NOT NULL,
    input text NOT NULL,
    consumer_id integer NOT NULL,
    token bigint NOT NULL,
    PRIMARY KEY (consumer, input)
);

-- One row for each event and consumer, 60 bytes in all. An event id `<uuid>/<position>` is kept as the two; any
-- other text as 160 bits of its SHA-256, with a negative position, so that it never equals one of the first kind.
CREATE TABLE IF NOT EXISTS dapper_inbox.events (
    change_set uuid NOT NULL,
    position integer NOT NULL,
    consumer_id integer NOT NULL,
    accepted_hour integer NOT NULL,
    PRIMARY KEY (change_set, position, consumer_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.2);

CREATE INDEX IF NOT EXISTS events_accepted_hour ON dapper_inbox.events (accepted_hour);

-- Forgets at most `most` events that are older than the retention; returns how many. Rows that another transaction has
-- locked are left to it, so that this waits for nobody. Locks the rows that it deletes until the transaction ends.
CREATE OR REPLACE FUNCTION dapper_inbox.prune(most integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    pruned bigint;
    oldest_kept integer;
BEGIN
    SELECT floor(extract(epoch FROM clock_timestamp() - s.retention) / 3600) INTO oldest_kept
      FROM dapper_inbox.settings s;
    DELETE FROM dapper_inbox.events e WHERE e.ctid = ANY (ARRAY(
        SELECT old.ctid FROM dapper_inbox.events old WHERE old.accepted_hour < oldest_kept
         ORDER BY old.accepted_hour LIMIT prune.most FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$body$;

-- True: the event is new to the consumer; do what is to be done, and commit. False: it was accepted before; do nothing.
-- An error of SQLSTATE DAP01: the token is lower than one already seen, so the caller was replaced.
--
-- Locks: the consumer's row of `tokens` in share mode, by the higher token exclusively once; and the event's id, so that a
-- second transaction with the same id waits until this one has ended. Both until the transaction ends.
CREATE OR REPLACE FUNCTION dapper_inbox.accept(event_id text, input text, token bigint, consumer text DEFAULT '')
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_column
DECLARE
    fence record;
    digest bytea;
    the_set uuid;
    the_position integer;
    is_new boolean;
BEGIN
    IF accept.event_id IS NULL OR accept.input IS NULL OR accept.consumer IS NULL THEN
        RAISE EXCEPTION 'event_id, input and consumer must not be null' USING ERRCODE = 'null_value_not_allowed';
    ELSIF accept.token < 0 THEN
        RAISE EXCEPTION 'the token % is negative', accept.token USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Each statement has a snapshot of its own in READ COMMITTED; with one snapshot for all, a row that changed since is a
    -- serialization failure. A plain lock of the row first, then an update, would let two new holders' calls deadlock.
    LOOP
        IF accept.token IS NULL THEN
            SELECT t.consumer_id, t.token INTO fence FROM dapper_inbox.tokens t
             WHERE t.consumer = accept.consumer AND t.input = accept.input;
        ELSE
            SELECT t.consumer_id, t.token INTO fence FROM dapper_inbox.tokens t
             WHERE t.consumer = accept.consumer AND t.input = accept.input AND t.token >= accept.token
               FOR SHARE;
        END IF;
        EXIT WHEN FOUND;
        INSERT INTO dapper_inbox.consumers (name) VALUES (accept.consumer) ON CONFLICT (name) DO NOTHING;
        INSERT INTO dapper_inbox.tokens (consumer, input, consumer_id, token)
        SELECT accept.consumer, accept.input, c.id, coalesce(accept.token, 0)
          FROM dapper_inbox.consumers c WHERE c.name = accept.consumer
        ON CONFLICT (consumer, input) DO UPDATE SET token = excluded.token WHERE tokens.token < excluded.token;
    END LOOP;
    IF fence.token > accept.token THEN
        RAISE EXCEPTION 'token % of input % is stale: token % was seen', accept.token, accept.input, fence.token
              USING ERRCODE = 'DAP01', DETAIL = fence.token::text,
                    HINT = 'Another replica has taken over from the caller. If the input was installed anew and its tokens '
                           'start over, reset_token(input, consumer) accepts them.';
    END IF;

    IF accept.event_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/(0|[1-9][0-9]{0,8})$' THEN
        the_set := left(accept.event_id, 36)::uuid;
        the_position := substr(accept.event_id, 38)::integer;
    ELSE
        digest := sha256(convert_to(accept.event_id, 'UTF8'));
        the_set := encode(substr(digest, 1, 16), 'hex')::uuid;
        the_position := ('x' || encode(substr(digest, 17, 4), 'hex'))::bit(32)::integer | (-2147483647 - 1);
    END IF;
    -- It decides by the index, not by a look that a concurrent transaction could slip past.
    INSERT INTO dapper_inbox.events (change_set, position, consumer_id, accepted_hour)
    VALUES (the_set, the_position, fence.consumer_id, floor(extract(epoch FROM clock_timestamp()) / 3600))
    ON CONFLICT DO NOTHING;
    is_new := FOUND;

    -- Two for each new one on average, so that it keeps up, in one go, so that it is cheap. Not with one snapshot for the
    -- whole transaction: rows that another call has pruned meanwhile would make the caller's transaction fail.
    IF is_new AND random() < 0.002 AND current_setting('transaction_isolation') = 'read committed' THEN
        PERFORM dapper_inbox.prune(1000);
    END IF;
    RETURN is_new;
END
$body$;

-- Lets the tokens of an input start over, for those who know that no replica of before still runs. Returns whether there was
-- anything to reset. Waits for the transactions that are accepting events with the old token.
CREATE OR REPLACE FUNCTION dapper_inbox.reset_token(input text, consumer text DEFAULT '') RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    UPDATE dapper_inbox.tokens t SET token = 0
     WHERE t.consumer = reset_token.consumer AND t.input = reset_token.input;
    RETURN FOUND;
END
$body$;

REVOKE ALL ON FUNCTION dapper_inbox.prune(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION dapper_inbox.accept(text, text, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION dapper_inbox.reset_token(text, text) FROM PUBLIC;
COMMENT ON FUNCTION dapper_inbox.accept(text, text, bigint, text) IS 'layout 1';
