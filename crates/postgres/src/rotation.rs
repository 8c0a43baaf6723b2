//! Keeps what we store small without deleting a row: writers fill the slots of `change_sets` in turn, and a slot that is
//! read and old enough is truncated. The cursor row is written anew when its dead versions pile up.
//!
//! Writers learn the slot from the wake-up flag, whose value is seen at once. A writer that has just read it may still
//! insert into a slot that was left, or emptied, meanwhile: its row is read there as anywhere else. So a slot is truncated
//! only under the lock that shuts out everybody who has an open transaction in it, and only if the cursor has passed
//! every row in it. Nothing waits for that lock. A transaction that stays open keeps the slots it has written to; there
//! are as many slots as it takes to go on without some of them.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, Row};

use crate::PostgresError;
use crate::names::quote_identifier;
use crate::session::bounded;
use crate::snapshot::Snapshot;

/// How many slots there are.
pub(crate) const SLOTS: i64 = 4;
/// How often the holder looks whether something is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A slot smaller than this is not worth a switch, in bytes.
const SMALLEST_SLOT: i64 = 8 * 1024 * 1024;
/// A slot is left after this part of the retention, so that not much more than the retention is kept.
const PART_OF_RETENTION: u32 = 2;
/// After a slot could not be had it is left alone for this long.
const PAUSE: Duration = Duration::from_secs(5);
/// The cursor row's table is written anew when it is larger than this, in bytes: then an open transaction keeps hundreds of
/// dead versions, and every look at it by its key walks past all of them.
const LARGEST_CURSOR: i64 = 128 * 1024;

pub(crate) struct Rotation {
    schema: String,
    retention: Duration,
    warn_size: i64,
    smallest_slot: i64,
    largest_cursor: i64,
    looked: Option<Instant>,
    /// When a slot that could not be had may be tried again.
    paused: [Option<Instant>; SLOTS as usize],
    /// The size that was last warned of, in bytes.
    warned: i64,
    /// The count of missed statements that was last reported.
    missed: i64,
}

/// What was looked at at once.
struct Look {
    slots: Vec<Slot>,
    cursor_bytes: i64,
    /// Statements that passed unrecorded, ever.
    missed: i64,
}

/// One slot, as it is.
struct Slot {
    /// With indexes and large values, in bytes.
    bytes: i64,
    /// Seconds since the first and the last row were captured, as far as rows are seen.
    oldest: Option<f64>,
    newest: Option<f64>,
    is_empty: bool,
}

impl Rotation {
    pub(crate) fn new(schema: &str, retention: Duration, warn_size: i64) -> Self {
        Self {
            schema: quote_identifier(schema),
            retention,
            warn_size,
            smallest_slot: SMALLEST_SLOT,
            largest_cursor: LARGEST_CURSOR,
            // A fresh holder has better things to do first.
            looked: Some(Instant::now()),
            paused: [None; SLOTS as usize],
            warned: 0,
            missed: 0,
        }
    }

    /// Truncates the slots that are read, sends writers to another slot when theirs has grown, and writes the cursor row
    /// anew when that is due. Returns a warning when what is stored has grown beyond the size to warn of, and again
    /// whenever it has doubled; and one when statements passed unrecorded, and whenever more did.
    pub(crate) async fn tick(
        &mut self,
        client: &Client,
        current: &mut i64,
        done: &Snapshot,
        token: i64,
    ) -> Result<Option<PostgresError>, PostgresError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(None);
        }
        self.looked = Some(Instant::now());
        let Look { mut slots, cursor_bytes, missed } = self.look(client).await?;
        for number in (0..SLOTS).filter(|number| number != current) {
            let slot = &mut slots[number as usize];
            let old_enough = slot.newest.is_none_or(|age| age >= self.retention.as_secs_f64());
            let paused = self.paused[number as usize].is_some_and(|until| until > Instant::now());
            if slot.is_empty || !old_enough || paused {
                continue;
            }
            if self.truncate(client, number, done, token).await? {
                slot.is_empty = true;
            } else {
                self.paused[number as usize] = Some(Instant::now() + PAUSE);
            }
        }
        let ours = &slots[*current as usize];
        let full = !ours.is_empty
            && ours.bytes >= self.smallest_slot
            && ours.oldest.is_none_or(|age| age >= (self.retention / PART_OF_RETENTION).as_secs_f64());
        let next =
            (1..SLOTS).map(|step| (*current + step) % SLOTS).find(|&next| slots[next as usize].is_empty);
        if let Some(next) = next.filter(|_| full)
            && self.switch(client, next, token).await?
        {
            *current = next;
        }
        if cursor_bytes > self.largest_cursor {
            self.renew_cursor(client, token).await?;
        }
        if let Some(warning) = self.missed(missed) {
            return Ok(Some(warning));
        }
        Ok(self.warning(slots.iter().map(|slot| slot.bytes).sum()))
    }

    /// Makes the next tick do whatever there is to do, however little.
    #[cfg(test)]
    pub(crate) fn at_every_chance(&mut self) {
        (self.smallest_slot, self.largest_cursor) = (1, 0);
        (self.looked, self.paused) = (None, [None; SLOTS as usize]);
    }

    fn missed(&mut self, count: i64) -> Option<PostgresError> {
        let more = count > self.missed;
        self.missed = count;
        more.then(|| PostgresError::Missed { schema: self.schema.clone(), statements: count })
    }

    fn warning(&mut self, bytes: i64) -> Option<PostgresError> {
        if bytes < self.warn_size {
            self.warned = 0;
            return None;
        }
        let due = self.warned == 0 || bytes >= self.warned.saturating_mul(2);
        due.then(|| {
            self.warned = bytes;
            PostgresError::Grown { schema: self.schema.clone(), mebibytes: bytes / (1024 * 1024) }
        })
    }

    /// Takes no lock that a writer could meet.
    async fn look(&self, client: &Client) -> Result<Look, PostgresError> {
        let schema = &self.schema;
        let literal = schema.replace('\'', "''");
        let age = |number: i64, order: &str| {
            format!(
                "(SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() - c.captured_at)::float8
                    FROM {schema}.change_sets_{number} c ORDER BY c.seq {order} LIMIT 1)"
            )
        };
        let slots: Vec<String> = (0..SLOTS)
            .map(|number| {
                format!(
                    "SELECT {number}, pg_catalog.pg_total_relation_size('{literal}.change_sets_{number}'), {}, {},
                            pg_catalog.pg_relation_size('{literal}.change_sets_{number}') = 0",
                    age(number, "ASC"),
                    age(number, "DESC")
                )
            })
            .collect();
        let sql = format!(
            "{} UNION ALL SELECT {SLOTS}, pg_catalog.pg_relation_size('{literal}.cursors'), NULL, NULL, false
                UNION ALL SELECT {SLOTS} + 1, CASE WHEN m.is_called THEN m.last_value ELSE 0 END, NULL, NULL, false
                            FROM {schema}.missed m ORDER BY 1",
            slots.join(" UNION ALL ")
        );
        let mut rows = bounded("looking at the slots", client.query(&sql, &[])).await?;
        let missed = rows.pop().map_or(0, |row| row.get(1));
        let cursor_bytes = rows.pop().map_or(0, |row| row.get(1));
        let slot = |row: &Row| Slot {
            bytes: row.get(1),
            oldest: row.get(2),
            newest: row.get(3),
            is_empty: row.get(4),
        };
        Ok(Look { slots: rows.iter().map(slot).collect(), cursor_bytes, missed })
    }

    /// Takes ACCESS EXCLUSIVE on a slot that is not in use, if it can be had at once, and the cursor row's lock: a holder
    /// that was replaced must not empty what its successor still has to read. Returns whether it did it.
    async fn truncate(
        &self,
        client: &Client,
        slot: i64,
        done: &Snapshot,
        token: i64,
    ) -> Result<bool, PostgresError> {
        let schema = &self.schema;
        let retention = self.retention.as_secs_f64();
        let open: Vec<String> = done.xip.iter().map(ToString::to_string).collect();
        let undo = "RAISE EXCEPTION USING ERRCODE = 'no_data_found'";
        // What cannot be done now ends in an error that undoes the block, and is caught: the server logs nothing. A full disk
        // is one such thing, since truncating begins with new files: reading goes on meanwhile.
        let sql = format!(
            "DO $do$ BEGIN
                PERFORM FROM {schema}.cursors WHERE partition = 0 AND token = {token} FOR UPDATE;
                IF NOT FOUND THEN {undo}; END IF;
                LOCK TABLE ONLY {schema}.change_sets_{slot} IN ACCESS EXCLUSIVE MODE NOWAIT;
                IF (SELECT last_value / 2 FROM {schema}.wake_up) = {slot}
                    OR EXISTS (SELECT FROM {schema}.change_sets_{slot} WHERE xid >= '{xmax}'::xid8)
                    OR EXISTS (SELECT FROM {schema}.change_sets_{slot} WHERE xid = ANY ('{{{open}}}'::xid8[]))
                    OR (SELECT captured_at > pg_catalog.clock_timestamp() - {retention} * interval '1 second'
                          FROM {schema}.change_sets_{slot} ORDER BY seq DESC LIMIT 1)
                THEN {undo}; END IF;
                UPDATE {schema}.cursors c SET emptied_until = GREATEST(c.emptied_until, s.captured_at)
                  FROM (SELECT captured_at FROM {schema}.change_sets_{slot} ORDER BY seq DESC LIMIT 1) s;
                TRUNCATE ONLY {schema}.change_sets_{slot};
             EXCEPTION WHEN lock_not_available OR no_data_found OR disk_full THEN NULL;
             END $do$",
            xmax = done.xmax,
            open = open.join(","),
        );
        bounded("emptying a slot", client.batch_execute(&sql)).await?;
        let sql = format!(
            "SELECT pg_catalog.pg_relation_size('{}.change_sets_{slot}') = 0",
            schema.replace('\'', "''")
        );
        Ok(bounded("looking at a slot", client.query_one(&sql, &[])).await?.get(0))
    }

    /// Sends writers to another slot, which is empty. Takes no lock.
    async fn switch(&self, client: &Client, next: i64, token: i64) -> Result<bool, PostgresError> {
        let schema = &self.schema;
        let sql = format!(
            "SELECT pg_catalog.setval('{}.wake_up', w.last_value % 2 + $2::int8 * 2)
               FROM {schema}.cursors c, {schema}.wake_up w
              WHERE c.partition = 0 AND c.token = $1",
            schema.replace('\'', "''")
        );
        let switched = bounded("switching slots", client.query_opt(&sql, &[&token, &next])).await?;
        Ok(switched.is_some())
    }

    /// Writes the cursor row into a fresh file, without its dead versions. Takes ACCESS EXCLUSIVE on the table, if it can
    /// be had at once; only replicas use it, and what they see before and after is the same row.
    async fn renew_cursor(&self, client: &Client, token: i64) -> Result<(), PostgresError> {
        let schema = &self.schema;
        let sql = format!(
            "DO $do$ DECLARE kept {schema}.cursors[]; BEGIN
                LOCK TABLE {schema}.cursors IN ACCESS EXCLUSIVE MODE NOWAIT;
                SELECT pg_catalog.array_agg(c) INTO kept FROM {schema}.cursors c
                 WHERE EXISTS (SELECT FROM {schema}.cursors WHERE partition = 0 AND token = {token});
                IF kept IS NOT NULL THEN
                    TRUNCATE {schema}.cursors;
                    INSERT INTO {schema}.cursors SELECT k.* FROM pg_catalog.unnest(kept) k;
                END IF;
             EXCEPTION WHEN lock_not_available OR disk_full THEN NULL;
             END $do$"
        );
        bounded("writing the cursor anew", client.batch_execute(&sql)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::{Fixture, seal};

    struct Slots {
        fixture: Fixture,
        rotation: Rotation,
        current: i64,
        done: Snapshot,
    }

    impl Slots {
        async fn new(retention: Duration) -> Self {
            let fixture = Fixture::new("CREATE TABLE t (id int PRIMARY KEY)").await;
            let schema = &fixture.options.names.schema;
            seal(&fixture.session, schema, 7).await.unwrap();
            let mut rotation = Rotation::new(schema, retention, i64::MAX);
            rotation.smallest_slot = 1;
            Self { fixture, rotation, current: 0, done: Snapshot::beginning() }
        }

        async fn tick(&mut self) -> Option<PostgresError> {
            self.rotation.looked = None;
            self.rotation.paused = [None; SLOTS as usize];
            let client = self.fixture.session.client();
            self.rotation.tick(client, &mut self.current, &self.done, 7).await.unwrap()
        }

        async fn insert(&self, id: i32) {
            self.fixture.execute(&format!("INSERT INTO t VALUES ({id})")).await;
        }

        async fn everything_is_done(&mut self) {
            let sql = "SELECT pg_current_snapshot()::text";
            let row = self.fixture.session.client().query_one(sql, &[]).await.unwrap();
            self.done = row.get::<_, &str>(0).parse().unwrap();
        }

        async fn rows(&self) -> Vec<i64> {
            let sql = "SELECT count(c.seq) FROM generate_series(0, 3) n
                         LEFT JOIN dapper_orders_input.change_sets c
                                ON c.tableoid = to_regclass('dapper_orders_input.change_sets_' || n)
                        GROUP BY n ORDER BY n";
            let rows = self.fixture.client.query(sql, &[]).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        }
    }

    #[tokio::test]
    async fn slots_are_filled_in_turn_and_emptied_when_read() {
        let mut slots = Slots::new(Duration::ZERO).await;
        for id in 0..4 {
            slots.insert(id).await;
            slots.tick().await;
        }
        // The last one has nowhere to go.
        assert_eq!((slots.current, slots.rows().await), (3, vec![1, 1, 1, 1]));
        slots.everything_is_done().await;
        slots.insert(4).await;
        slots.tick().await;
        assert_eq!((slots.current, slots.rows().await), (0, vec![0, 0, 0, 2]));
        // What came after the snapshot is not done.
        slots.tick().await;
        assert_eq!(slots.rows().await, [0, 0, 0, 2]);
        slots.everything_is_done().await;
        slots.tick().await;
        assert_eq!(slots.rows().await, [0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn an_open_transaction_keeps_the_slot_it_wrote_to_and_no_other() {
        let mut slots = Slots::new(Duration::ZERO).await;
        let open = slots.fixture.database.connect().await.unwrap();
        open.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO t VALUES (-1)").await.unwrap();
        for id in 0..20 {
            slots.insert(id).await;
            slots.everything_is_done().await;
            slots.tick().await;
        }
        let rows = slots.rows().await;
        assert_eq!((rows[0], rows.iter().sum::<i64>()), (1, 2), "{rows:?}");
        open.batch_execute("COMMIT").await.unwrap();
        // Committed, and not read.
        slots.tick().await;
        assert_eq!(slots.rows().await[0], 2);
        slots.everything_is_done().await;
        slots.tick().await;
        assert_eq!(slots.rows().await[0], 0);
    }

    #[tokio::test]
    async fn what_is_read_is_kept_for_the_retention() {
        let mut slots = Slots::new(Duration::from_secs(2)).await;
        slots.insert(1).await;
        slots.everything_is_done().await;
        slots.tick().await;
        assert_eq!((slots.current, slots.rows().await), (0, vec![1, 0, 0, 0]));
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        slots.insert(2).await;
        slots.everything_is_done().await;
        slots.tick().await;
        slots.tick().await;
        assert_eq!((slots.current, slots.rows().await), (1, vec![2, 0, 0, 0]));
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        slots.tick().await;
        assert_eq!(slots.rows().await, [0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn a_holder_that_was_replaced_empties_nothing_switches_nothing_and_leaves_the_cursor_alone() {
        let mut slots = Slots::new(Duration::ZERO).await;
        slots.insert(1).await;
        slots.tick().await;
        slots.insert(2).await;
        let schema = &slots.fixture.options.names.schema;
        seal(&slots.fixture.session, schema, 8).await.unwrap();
        slots.everything_is_done().await;
        slots.rotation.largest_cursor = 0;
        let file = "SELECT pg_relation_filenode('dapper_orders_input.cursors')";
        let before: u32 = slots.fixture.client.query_one(file, &[]).await.unwrap().get(0);
        slots.tick().await;
        assert_eq!((slots.current, slots.rows().await), (1, vec![1, 1, 0, 0]));
        assert_eq!(slots.fixture.client.query_one(file, &[]).await.unwrap().get::<_, u32>(0), before);
    }

    #[tokio::test]
    async fn the_cursor_row_sheds_its_dead_versions_under_an_open_transaction_and_stays_the_same() {
        let mut slots = Slots::new(Duration::ZERO).await;
        let open = slots.fixture.database.connect().await.unwrap();
        open.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()")
            .await
            .unwrap();
        let write = "DO $$ BEGIN FOR n IN 1 .. 4000 LOOP
                        UPDATE dapper_orders_input.cursors SET version = version + 1; COMMIT; END LOOP; END $$";
        slots.fixture.execute(write).await;
        let state = "SELECT pg_relation_size('dapper_orders_input.cursors'), c::text FROM dapper_orders_input.cursors c";
        let row = slots.fixture.client.query_one(state, &[]).await.unwrap();
        let (bloated, before): (i64, String) = (row.get(0), row.get(1));
        assert!(bloated > LARGEST_CURSOR, "{bloated}");
        slots.tick().await;
        let row = slots.fixture.client.query_one(state, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, String>(1)), (8192, before));
    }

    #[tokio::test]
    async fn growth_is_warned_of_once_for_each_doubling() {
        let mut slots = Slots::new(Duration::from_secs(3600)).await;
        slots.rotation.warn_size = 200 * 1024;
        let mut warnings = 0;
        for id in 0..12 {
            let fill = "INSERT INTO dapper_orders_input.change_sets_0 (changes, payload)
                        SELECT 1, repeat('x', 100) FROM generate_series(1, 500)";
            slots.fixture.execute(fill).await;
            slots.insert(id).await;
            warnings += usize::from(matches!(slots.tick().await, Some(PostgresError::Grown { .. })));
        }
        let size = "SELECT pg_total_relation_size('dapper_orders_input.change_sets_0')";
        let size: i64 = slots.fixture.client.query_one(size, &[]).await.unwrap().get(0);
        let doublings = f64::log2(size as f64 / (200.0 * 1024.0));
        assert!(
            warnings >= 2 && warnings as f64 <= doublings + 1.0,
            "{warnings} warnings up to {size} bytes"
        );
    }
}
