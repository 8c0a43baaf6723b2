-- Everything an input installs, in one schema of its own; `{schema}` is its quoted name. Run on nothing, or on any older
-- layout, this makes the current one: every statement must bear being run again, and say what it changes of an older
-- table. Takes locks on objects of ours alone.

CREATE SCHEMA IF NOT EXISTS {schema};

-- Where the reader is. One row for each partition of the keys; there is one partition. Every writer of this row says
-- WHERE token = its own: the fence. `lock_store` is whose tokens these are, and `token_base` what is added to them: the
-- tokens of an accepted new store go on where those of the old one ended.
CREATE TABLE IF NOT EXISTS {schema}.cursors (
    partition         integer     PRIMARY KEY,
    token             bigint      NOT NULL,
    lock_store        uuid,
    token_base        bigint      NOT NULL DEFAULT 0,
    prev              pg_snapshot NOT NULL,
    target            pg_snapshot,
    done              bigint      NOT NULL,
    claimed           pg_snapshot,
    claimed_seq       bigint      NOT NULL,
    attempt           integer     NOT NULL,
    version           bigint      NOT NULL,
    system_identifier bigint      NOT NULL,
    timeline          bigint      NOT NULL
) WITH (fillfactor = 50);

-- Layout 1 had two slots, remembered when they were last switched, and had no more than one lock store.
ALTER TABLE {schema}.cursors DROP COLUMN IF EXISTS rotated_at;
ALTER TABLE {schema}.cursors ADD COLUMN IF NOT EXISTS lock_store uuid;
ALTER TABLE {schema}.cursors ADD COLUMN IF NOT EXISTS token_base bigint NOT NULL DEFAULT 0;

INSERT INTO {schema}.cursors
    (partition, token, prev, done, claimed_seq, attempt, version, system_identifier, timeline)
SELECT 0, 0, '1:1:', 0, 0, 0, 0, c.system_identifier, {timeline}
  FROM pg_catalog.pg_control_system() c
    ON CONFLICT DO NOTHING;

-- Draws the position of a change set. CACHE stays 1: with more, changes of one row come out in another order.
CREATE SEQUENCE IF NOT EXISTS {schema}.change_sets_seq CACHE 1;

-- Twice the number of the slot that writers write to, plus one while the reader is awake and needs no NOTIFY. It starts
-- with one: while there is no reader yet nobody needs a NOTIFY, and it would make PREPARE TRANSACTION fail. A
-- sequence, because its value is seen at once, whatever the snapshot of who looks. Not an unlogged one: created while a
-- standby streams, it is unreadable once that is promoted (seen on 15.18).
CREATE SEQUENCE IF NOT EXISTS {schema}.wake_up MINVALUE 0 START 1;

-- What changed: one row for each statement, or for each 1,000 rows of it. The slots are filled in turn, and a slot that
-- is read is truncated. No autovacuum: no row is ever deleted, and it would only be in the way of truncating.
CREATE TABLE IF NOT EXISTS {schema}.change_sets (
    seq         bigint      NOT NULL DEFAULT pg_catalog.nextval('{schema_literal}.change_sets_seq'),
    xid         xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    captured_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    id          uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    changes     integer     NOT NULL,
    payload     text        NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.change_sets_0 () INHERITS ({schema}.change_sets);
CREATE TABLE IF NOT EXISTS {schema}.change_sets_1 () INHERITS ({schema}.change_sets);
CREATE TABLE IF NOT EXISTS {schema}.change_sets_2 () INHERITS ({schema}.change_sets);
CREATE TABLE IF NOT EXISTS {schema}.change_sets_3 () INHERITS ({schema}.change_sets);
ALTER TABLE {schema}.change_sets_0 SET (autovacuum_enabled = off);
ALTER TABLE {schema}.change_sets_1 SET (autovacuum_enabled = off);
ALTER TABLE {schema}.change_sets_2 SET (autovacuum_enabled = off);
ALTER TABLE {schema}.change_sets_3 SET (autovacuum_enabled = off);
CREATE INDEX IF NOT EXISTS change_sets_0_xid_idx ON {schema}.change_sets_0 (xid);
CREATE INDEX IF NOT EXISTS change_sets_1_xid_idx ON {schema}.change_sets_1 (xid);
CREATE INDEX IF NOT EXISTS change_sets_2_xid_idx ON {schema}.change_sets_2 (xid);
CREATE INDEX IF NOT EXISTS change_sets_3_xid_idx ON {schema}.change_sets_3 (xid);
CREATE INDEX IF NOT EXISTS change_sets_0_seq_idx ON {schema}.change_sets_0 (seq);
CREATE INDEX IF NOT EXISTS change_sets_1_seq_idx ON {schema}.change_sets_1 (seq);
CREATE INDEX IF NOT EXISTS change_sets_2_seq_idx ON {schema}.change_sets_2 (seq);
CREATE INDEX IF NOT EXISTS change_sets_3_seq_idx ON {schema}.change_sets_3 (seq);

-- How many statements passed whose changes could not be recorded (on_capture_error = "skip"). A sequence, because drawing
-- from it stays done when the application rolls back, and needs none of our tables. After a crash it may be up to 32 ahead.
CREATE SEQUENCE IF NOT EXISTS {schema}.missed CACHE 1;

-- One while the change sets have reached max_size. A sequence, because its value is seen at once and stays when the
-- application rolls back, as it must.
CREATE SEQUENCE IF NOT EXISTS {schema}.is_full MINVALUE 0 START 0;

CREATE OR REPLACE FUNCTION {schema}.refuse_when_full(max_bytes bigint) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $function$
DECLARE
    was_full boolean := (SELECT f.last_value = 1 FROM {schema}.is_full f);
    bytes bigint := (SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(i.inhrelid)) FROM pg_catalog.pg_inherits i
                      WHERE i.inhparent = '{schema_literal}.change_sets'::pg_catalog.regclass);
BEGIN
    IF was_full <> (bytes >= max_bytes) THEN
        PERFORM pg_catalog.setval('{schema_literal}.is_full', CASE WHEN was_full THEN 0 ELSE 1 END);
    END IF;
    IF bytes >= max_bytes THEN
        RAISE EXCEPTION USING ERRCODE = 'disk_full',
            MESSAGE = pg_catalog.format('the change sets in %s take %s bytes, and max_size is %s',
                '{schema_literal}', bytes, max_bytes),
            HINT = 'Let dapper read them (dapper doctor says what is in the way), raise max_size, or remove the triggers with dapper uninstall.';
    END IF;
END
$function$;
