-- How far the cursor is and what waits behind it, at one moment. Takes no lock. $1 bounds the change sets that are counted, so that
-- the cost does not grow with what is unread: each branch walks an index from the cursor on and stops there.
WITH c AS MATERIALIZED (SELECT * FROM {schema}.cursors WHERE partition = 0),
unread AS MATERIALIZED (
    -- Of a target in work, and newer: whatever the target does not see drew its position later, but for what was in progress.
    (SELECT a.seq, a.captured_at, a.changes
       FROM (SELECT s.* FROM {schema}.change_sets s
              WHERE s.seq > (SELECT c.done FROM c WHERE c.target IS NOT NULL) ORDER BY s.seq LIMIT $1) a
      WHERE NOT pg_catalog.pg_visible_in_snapshot(a.xid, (SELECT c.prev FROM c)))
    UNION ALL
    (SELECT s.seq, s.captured_at, s.changes FROM {schema}.change_sets s
      WHERE s.xid = ANY (ARRAY(SELECT pg_catalog.pg_snapshot_xip(c.target) FROM c))
        AND s.seq <= (SELECT c.done FROM c) LIMIT $1)
    UNION ALL
    -- Without a target: whatever the last snapshot did not see.
    (SELECT s.seq, s.captured_at, s.changes FROM {schema}.change_sets s
      WHERE s.xid >= (SELECT pg_catalog.pg_snapshot_xmax(c.prev) FROM c WHERE c.target IS NULL)
      ORDER BY s.xid LIMIT $1)
    UNION ALL
    (SELECT s.seq, s.captured_at, s.changes FROM {schema}.change_sets s
      WHERE s.xid = ANY (ARRAY(SELECT pg_catalog.pg_snapshot_xip(c.prev) FROM c WHERE c.target IS NULL)) LIMIT $1)
)
SELECT c.token, c.token_base, c.lock_store::text AS lock_store, c.attempt, c.handled, c.system_identifier,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - c.moved_at)::float8 AS moved,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - c.sealed_at)::float8 AS sealed,
       pg_catalog.to_char(c.sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS sealed_at,
       pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS now,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp())::float8 AS seconds,
       (SELECT pg_catalog.count(*) FROM unread) AS change_sets,
       (SELECT COALESCE(pg_catalog.sum(u.changes), 0)::int8 FROM unread u) AS changes,
       (SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(u.captured_at))::float8 FROM unread u)
           AS oldest,
       (SELECT pg_catalog.min(u.seq) FROM unread u) AS first_seq,
       (SELECT l.last_value FROM {schema}.change_sets_seq l) AS last_seq,
       (SELECT CASE WHEN m.is_called THEN m.last_value ELSE 0 END FROM {schema}.missed m) AS missed
  FROM c
