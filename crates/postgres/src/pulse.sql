-- The cursor, what is not recorded as handled, what is parked. Takes no lock beyond ACCESS SHARE, and looks at 5,000
-- change sets at the most: beyond that each further one counts as one change.
SELECT c.token, c.version,
       u.changes + CASE WHEN u.sets < 5000 THEN 0 ELSE GREATEST(q.last_value - u.seq, 0) END AS lag_changes,
       COALESCE(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - u.oldest), 0)::float8 AS lag_seconds,
       (SELECT pg_catalog.count(*) FROM {schema}.parked p WHERE p.head) AS parked_keys,
       (SELECT pg_catalog.count(*) FROM {schema}.dead_letters) AS dead_letters,
       (SELECT CASE WHEN m.is_called THEN m.last_value ELSE 0 END FROM {schema}.missed m) AS missed
  FROM {schema}.cursors c
 CROSS JOIN {schema}.change_sets_seq q
 CROSS JOIN LATERAL (
    SELECT COALESCE(pg_catalog.sum(s.changes), 0)::int8 AS changes, pg_catalog.count(*) AS sets,
           pg_catalog.min(s.captured_at) AS oldest, COALESCE(pg_catalog.max(s.seq), 0) AS seq
      FROM (SELECT s.seq, s.captured_at, s.changes FROM {schema}.change_sets s
             WHERE s.xid >= pg_catalog.pg_snapshot_xmin(c.prev)
               AND NOT pg_catalog.pg_visible_in_snapshot(s.xid, c.prev)
               AND NOT COALESCE(pg_catalog.pg_visible_in_snapshot(s.xid, c.target) AND s.seq <= c.done, false)
             LIMIT 5000) s
 ) u
 WHERE c.partition = 0
