-- Everything an input installs, in one schema of its own. `{schema}` is the quoted schema, `{channel}` the quoted
-- channel. Takes locks on new objects alone.

CREATE SCHEMA IF NOT EXISTS {schema};

-- Where the reader is. One row for each partition of the keys; there is one partition. Every writer of this row says
-- WHERE token = its own: the fence. `lock_store` is whose tokens these are, and `token_base` what is added to them: the
-- tokens of an accepted new store go on where those of the old one ended.
CREATE TABLE {schema}.cursors (
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
    timeline          bigint      NOT NULL,
    rotated_at        timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 50);

INSERT INTO {schema}.cursors
SELECT 0, 0, NULL, 0, '1:1:', NULL, 0, NULL, 0, 0, 0, c.system_identifier, {timeline}
  FROM pg_catalog.pg_control_system() c;

-- Draws the position of a change set. CACHE stays 1: with more, changes of one row come out in another order.
CREATE SEQUENCE {schema}.change_sets_seq CACHE 1;

-- Twice the number of the slot that writers write to, plus one while the reader is awake and needs no NOTIFY. A
-- sequence, because its value is seen at once, whatever the snapshot of who looks. Not an unlogged one: created while a
-- standby streams, it is unreadable once that is promoted (seen on 15.18).
CREATE SEQUENCE {schema}.wake_up MINVALUE 0 START 0;

-- What changed: one row for each statement, or for each 1,000 rows of it. The slots are filled in turn, and a slot that
-- is read is truncated.
CREATE TABLE {schema}.change_sets (
    seq         bigint      NOT NULL DEFAULT pg_catalog.nextval('{schema_literal}.change_sets_seq'),
    xid         xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    captured_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    id          uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    changes     integer     NOT NULL,
    payload     text        NOT NULL
);
CREATE TABLE {schema}.change_sets_0 () INHERITS ({schema}.change_sets);
CREATE TABLE {schema}.change_sets_1 () INHERITS ({schema}.change_sets);
CREATE INDEX ON {schema}.change_sets_0 (xid);
CREATE INDEX ON {schema}.change_sets_1 (xid);
CREATE INDEX ON {schema}.change_sets_0 (seq);
CREATE INDEX ON {schema}.change_sets_1 (seq);
