//! The statements on `parked` and `dead_letters`.
//!
//! Each belongs into a transaction that begins with [`FENCE`], which takes the cursor row's lock: so nobody writes here who
//! was replaced, and no two write at a time. No other lock that the application could meet is taken.

/// Fails with a division by zero when the cursor is another's, which undoes the transaction.
pub(crate) const FENCE: &str = "SELECT 1 / pg_catalog.count(*) FROM
    (SELECT FROM {schema}.cursors WHERE partition = 0 AND token = $1 FOR UPDATE) f";

/// What chaos runs have in its place to see whether they notice.
pub(crate) const NO_FENCE: &str =
    "SELECT FROM {schema}.cursors WHERE partition = 0 AND $1::int8 IS NOT NULL FOR UPDATE";

/// Every lane that has rows has one head. Takes no lock.
pub(crate) const LANES: &str = "SELECT p.lane FROM {schema}.parked p WHERE p.head";

/// Whether anything is being tried, how suspicious the most suspicious is that waits, and in how many seconds the next is due. Takes
/// no lock.
pub(crate) const LOOK: &str = "SELECT EXISTS (SELECT FROM {schema}.parked p WHERE p.claimed IS NOT NULL),
    (SELECT p.suspicion::int4 FROM {schema}.parked p WHERE p.suspicion > 0 AND p.head AND p.claimed IS NULL
        AND p.ready_at < '9999-01-01 00:00:00+00' ORDER BY p.suspicion DESC LIMIT 1),
    (SELECT EXTRACT(epoch FROM p.ready_at - pg_catalog.clock_timestamp())::float8 FROM {schema}.parked p
      WHERE p.head AND p.claimed IS NULL AND p.suspicion = 0 ORDER BY p.ready_at LIMIT 1)";

/// What a holder that died had claimed may be what it died of; there are few enough to try each alone.
pub(crate) const SUSPECT: &str =
    "UPDATE {schema}.parked SET claimed = NULL, suspicion = 2 WHERE claimed IS NOT NULL";

/// Which of these events are stored, and for which process. Takes no lock.
pub(crate) const STORED: &str =
    "SELECT event_id, process FROM {schema}.parked WHERE event_id = ANY ($1::text[])
    UNION SELECT event_id, process FROM {schema}.dead_letters WHERE event_id = ANY ($1::text[])";

/// Parks events, as far as they are not. $13 is how long each is to be left alone, in milliseconds.
pub(crate) const PARK: &str = "INSERT INTO {schema}.parked (event_id, process, lane, seq, position, location, id,
        event, attempt, tries, error, suspicion, crashes_left, ready_at)
    SELECT n.event_id, n.process, n.lane, n.seq, n.position, n.location, n.id, n.event, n.attempt, n.tries, n.error,
           n.suspicion, n.crashes_left,
           CASE WHEN n.process IN (SELECT x.process FROM {schema}.pauses x) THEN timestamptz '9999-01-01 00:00:00+00'
                ELSE pg_catalog.clock_timestamp() + n.after_ms * interval '1 millisecond' END
      FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::int8[]),
               pg_catalog.unnest($4::int8[]), pg_catalog.unnest($5::int4[]), pg_catalog.unnest($6::text[]),
               pg_catalog.unnest($7::text[]), pg_catalog.unnest($8::text[]), pg_catalog.unnest($9::int4[]),
               pg_catalog.unnest($10::int4[]), pg_catalog.unnest($11::text[]), pg_catalog.unnest($12::int2[]),
               pg_catalog.unnest($13::int8[]), pg_catalog.unnest($14::int4[]))
           n(event_id, process, lane, seq, position, location, id, event, attempt, tries, error, suspicion, after_ms,
             crashes_left)
     WHERE NOT EXISTS (SELECT FROM {schema}.parked p
                        WHERE p.event_id = n.event_id AND p.process = ANY ($15::text[]))
       AND NOT EXISTS (SELECT FROM {schema}.dead_letters d
                        WHERE d.event_id = n.event_id AND d.process = ANY ($15::text[]))
        ON CONFLICT (event_id, process) DO NOTHING";

/// Puts rows back that were claimed.
pub(crate) const PUT_BACK: &str = "UPDATE {schema}.parked p SET claimed = NULL, suspicion = 0, tries = n.tries,
        error = n.error, ready_at =
           CASE WHEN p.process IN (SELECT x.process FROM {schema}.pauses x) THEN timestamptz '9999-01-01 00:00:00+00'
                ELSE pg_catalog.clock_timestamp() + n.after_ms * interval '1 millisecond' END
    FROM ROWS FROM (pg_catalog.unnest($1::int8[]), pg_catalog.unnest($2::int4[]), pg_catalog.unnest($3::text[]),
                    pg_catalog.unnest($4::int8[])) n(number, tries, error, after_ms)
   WHERE p.number = n.number";

/// Gives claimed rows up without having tried them to the end.
pub(crate) const UNCLAIM: &str = "UPDATE {schema}.parked SET claimed = NULL WHERE number = ANY ($1::int8[])";

pub(crate) const REMOVE: &str = "DELETE FROM {schema}.parked WHERE number = ANY ($1::int8[])";

pub(crate) const BURY: &str =
    "INSERT INTO {schema}.dead_letters AS l (event_id, process, lane, seq, position, location, id, event, attempt, tries, error)
    SELECT * FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::int8[]),
               pg_catalog.unnest($4::int8[]), pg_catalog.unnest($5::int4[]), pg_catalog.unnest($6::text[]),
               pg_catalog.unnest($7::text[]), pg_catalog.unnest($8::text[]), pg_catalog.unnest($9::int4[]),
               pg_catalog.unnest($10::int4[]), pg_catalog.unnest($11::text[])) n
        ON CONFLICT (event_id, process) DO UPDATE SET
           event = excluded.event, attempt = excluded.attempt, tries = l.tries + excluded.tries,
           error = excluded.error, died_at = pg_catalog.clock_timestamp()";

/// Makes dead letters of what programs have died of often enough.
pub(crate) const BURY_KILLERS: &str = "WITH killers AS (
        DELETE FROM {schema}.parked WHERE suspicion = 2 AND claimed IS NULL AND crashes_left <= 0 RETURNING *)
    INSERT INTO {schema}.dead_letters AS l
           (event_id, process, lane, seq, position, location, id, event, attempt, tries, error)
    SELECT event_id, process, lane, seq, position, location, id, event, attempt, tries,
           'the program died each time while the process had this event and nothing else was tried'
      FROM killers
        ON CONFLICT (event_id, process) DO UPDATE SET
           event = excluded.event, attempt = excluded.attempt, tries = l.tries + excluded.tries,
           error = excluded.error, died_at = pg_catalog.clock_timestamp()
    RETURNING lane, process, location, id";

/// Heads that are not the first of their lane any more.
pub(crate) const UNHEAD: &str =
    "UPDATE {schema}.parked p SET head = false WHERE p.lane = ANY ($1::int8[]) AND p.head AND EXISTS
    (SELECT FROM {schema}.parked q WHERE q.lane = p.lane AND (q.seq, q.position) < (p.seq, p.position))";

/// The first of each lane becomes its head, which is due as whether its process is paused says.
pub(crate) const HEAD: &str = "UPDATE {schema}.parked p SET head = true, ready_at =
        CASE WHEN p.process IN (SELECT x.process FROM {schema}.pauses x) THEN timestamptz '9999-01-01 00:00:00+00'
             WHEN p.ready_at >= '9999-01-01 00:00:00+00' THEN pg_catalog.clock_timestamp() ELSE p.ready_at END FROM
    (SELECT (SELECT q.number FROM {schema}.parked q WHERE q.lane = l.lane ORDER BY q.seq, q.position LIMIT 1) AS number
       FROM pg_catalog.unnest($1::int8[]) l(lane)) f
   WHERE p.number = f.number AND NOT p.head";

/// What is parked for a process that is being paused is due at the end of time. Heads are enough: nothing else is looked at.
pub(crate) const HOLD_BACK: &str = "UPDATE {schema}.parked SET ready_at = '9999-01-01 00:00:00+00'
    WHERE head AND process = $1";

/// What was held back for a process that is being resumed is due now.
pub(crate) const LET_GO: &str = "UPDATE {schema}.parked SET ready_at = pg_catalog.clock_timestamp()
    WHERE head AND process = $1 AND ready_at >= '9999-01-01 00:00:00+00'";

/// Which of these lanes have no rows. Takes no lock.
pub(crate) const EMPTY: &str = "SELECT l.lane FROM pg_catalog.unnest($1::int8[]) l(lane)
    WHERE NOT EXISTS (SELECT FROM {schema}.parked p WHERE p.lane = l.lane)";

/// Claims what is due, counting the try.
pub(crate) const CLAIM: &str =
    "UPDATE {schema}.parked p SET claimed = $1, attempt = p.attempt + 1, tries = p.tries + 1
    FROM (SELECT q.number FROM {schema}.parked q
           WHERE q.head AND q.claimed IS NULL AND q.suspicion = 0 AND q.ready_at <= pg_catalog.statement_timestamp()
           ORDER BY q.ready_at LIMIT $2) due
   WHERE p.number = due.number
  RETURNING p.number, p.process, p.lane, p.seq, p.position, p.event, p.attempt, p.tries, p.suspicion > 0";

/// Claims the most suspicious, counting the try, and what may come of it for one that is alone.
pub(crate) const CLAIM_SUSPECTS: &str =
    "UPDATE {schema}.parked p SET claimed = $1, attempt = p.attempt + 1, tries = p.tries + 1,
        crashes_left = p.crashes_left - CASE WHEN p.suspicion = 2 THEN 1 ELSE 0 END
    FROM (SELECT q.number FROM {schema}.parked q WHERE q.suspicion > 0 AND q.head AND q.claimed IS NULL
             AND q.ready_at < '9999-01-01 00:00:00+00' ORDER BY q.suspicion DESC, q.number LIMIT $2) due
   WHERE p.number = due.number
  RETURNING p.number, p.process, p.lane, p.seq, p.position, p.event, p.attempt, p.tries, p.suspicion > 0";
