//! Empties `change_sets` without deleting a row: writers fill two slots in turn, and a slot that is read and old enough
//! is truncated.
//!
//! Writers learn the slot from the wake-up flag, whose value is seen at once. After switching, the holder draws a
//! transaction id `F`; whoever may still write to the old slot has an id below it. Once everything below `F` is finished
//! and done, the old slot holds nothing that anybody will read.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::PostgresError;
use crate::holder::draw_xid;
use crate::names::quote_identifier;
use crate::session::bounded;
use crate::snapshot::Snapshot;

/// How often the holder looks whether something is to be done.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A slot smaller than this is not worth a switch, in bytes.
const SMALLEST_SLOT: i64 = 8 * 1024 * 1024;
/// TRUNCATE waits at most this long for its lock, in milliseconds; only readers of our table could hold one.
const LOCK_TIMEOUT_MS: u32 = 100;

pub(crate) struct Rotation {
    schema: String,
    retention: Duration,
    smallest_slot: i64,
    looked: Option<Instant>,
    /// Drawn after the writers' slot was last seen to be the one it is now; with that slot.
    fence: Option<(i64, u64)>,
}

impl Rotation {
    pub(crate) fn new(schema: &str, retention: Duration) -> Self {
        Self {
            schema: quote_identifier(schema),
            retention,
            smallest_slot: SMALLEST_SLOT,
            // A fresh holder has better things to do first.
            looked: Some(Instant::now()),
            fence: None,
        }
    }

    /// Does at most one thing: truncates the slot that is read, or switches to it when it is empty.
    pub(crate) async fn tick(
        &mut self,
        client: &Client,
        slot: &mut i64,
        done: &Snapshot,
        token: i64,
    ) -> Result<(), PostgresError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let f = match self.fence {
            Some((fenced, f)) if fenced == *slot => f,
            _ => {
                let f = draw_xid(client).await?;
                self.fence = Some((*slot, f));
                f
            }
        };
        let other = 1 - *slot;
        let schema = &self.schema;
        let row = bounded(
            "looking at the slots",
            client.query_one(
                &format!(
                    "SELECT pg_catalog.pg_total_relation_size('{0}.change_sets_{slot}'),
                            pg_catalog.pg_relation_size('{0}.change_sets_{other}'),
                            EXTRACT(epoch FROM pg_catalog.now() - c.rotated_at)::float8
                       FROM {schema}.cursors c WHERE c.partition = 0",
                    schema.replace('\'', "''")
                ),
                &[],
            ),
        )
        .await?;
        let (current_bytes, other_bytes, age): (i64, i64, f64) = (row.get(0), row.get(1), row.get(2));
        let old_enough = age >= self.retention.as_secs_f64();
        if other_bytes > 0 {
            if done.xmin >= f && old_enough {
                self.truncate(client, other, token).await?;
            }
            return Ok(());
        }
        if current_bytes >= self.smallest_slot && old_enough {
            self.switch(client, slot, token).await?;
        }
        Ok(())
    }

    /// Takes ACCESS EXCLUSIVE on a table that no writer uses, and the cursor row's lock: a holder that was replaced must
    /// not empty a slot that its successor has taken into use again.
    async fn truncate(&self, client: &Client, slot: i64, token: i64) -> Result<(), PostgresError> {
        let schema = &self.schema;
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
             DO $do$ BEGIN
                PERFORM FROM {schema}.cursors WHERE partition = 0 AND token = {token} FOR UPDATE;
                IF FOUND AND (SELECT last_value / 2 FROM {schema}.wake_up) <> {slot} THEN
                    TRUNCATE {schema}.change_sets_{slot};
                END IF;
             END $do$; COMMIT"
        );
        let result = bounded("emptying a slot", client.batch_execute(&sql)).await;
        if let Err(PostgresError::Statement { source, .. }) = &result
            && source.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE)
        {
            // Somebody reads our table, a dump perhaps; later is early enough.
            return bounded("rolling back", client.batch_execute("ROLLBACK")).await;
        }
        result
    }

    /// Sends writers to the other slot, which is empty.
    async fn switch(&mut self, client: &Client, slot: &mut i64, token: i64) -> Result<(), PostgresError> {
        let schema = &self.schema;
        let other = 1 - *slot;
        let switched = bounded(
            "switching slots",
            client.query_opt(
                &format!(
                    "WITH held AS (
                        UPDATE {schema}.cursors SET rotated_at = pg_catalog.now()
                         WHERE partition = 0 AND token = $1 RETURNING 1)
                     SELECT pg_catalog.setval('{}.wake_up', w.last_value % 2 + $2::int8 * 2)
                       FROM held, {schema}.wake_up w",
                    schema.replace('\'', "''")
                ),
                &[&token, &other],
            ),
        )
        .await?;
        if switched.is_some() {
            *slot = other;
            self.fence = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::{Fixture, seal};

    struct Slots {
        fixture: Fixture,
        rotation: Rotation,
        slot: i64,
        done: Snapshot,
    }

    impl Slots {
        async fn new(retention: Duration) -> Self {
            let fixture = Fixture::new("CREATE TABLE t (id int PRIMARY KEY)").await;
            let schema = &fixture.options.names.schema;
            seal(&fixture.session, schema, 7).await.unwrap();
            let mut rotation = Rotation::new(schema, retention);
            rotation.smallest_slot = 1;
            Self { fixture, rotation, slot: 0, done: Snapshot::beginning() }
        }

        async fn tick(&mut self) {
            self.rotation.looked = None;
            let client = self.fixture.session.client();
            self.rotation.tick(client, &mut self.slot, &self.done, 7).await.unwrap();
        }

        async fn everything_is_done(&mut self) {
            let sql = "SELECT pg_current_snapshot()::text";
            let row = self.fixture.session.client().query_one(sql, &[]).await.unwrap();
            self.done = row.get::<_, &str>(0).parse().unwrap();
        }

        async fn rows(&self) -> (i64, i64) {
            let sql = "SELECT (SELECT count(*) FROM dapper_orders_input.change_sets_0),
                              (SELECT count(*) FROM dapper_orders_input.change_sets_1)";
            let row = self.fixture.client.query_one(sql, &[]).await.unwrap();
            (row.get(0), row.get(1))
        }
    }

    #[tokio::test]
    async fn slots_are_filled_in_turn_and_emptied_when_read() {
        let mut slots = Slots::new(Duration::ZERO).await;
        let slow = slots.fixture.database.connect().await.unwrap();
        slow.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        slots.fixture.execute("INSERT INTO t VALUES (2)").await;
        slots.tick().await;
        assert_eq!(slots.slot, 1);
        slots.fixture.execute("INSERT INTO t VALUES (3)").await;
        assert_eq!(slots.rows().await, (1, 1));

        // A writer that may still use the old slot keeps it, however far the reader is.
        slots.everything_is_done().await;
        slots.tick().await;
        slots.everything_is_done().await;
        slots.tick().await;
        assert_eq!(slots.rows().await, (1, 1));
        slow.batch_execute("COMMIT").await.unwrap();
        slots.tick().await;
        assert_eq!(slots.rows().await, (2, 1));
        // Snapshots see the transactions of all databases, those of tests that run meanwhile too.
        for _ in 0..200 {
            slots.everything_is_done().await;
            slots.tick().await;
            if slots.rows().await == (0, 1) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(slots.rows().await, (0, 1));
        slots.tick().await;
        assert_eq!(slots.slot, 0);
    }

    #[tokio::test]
    async fn what_is_read_is_kept_for_the_retention() {
        let mut slots = Slots::new(Duration::from_secs(3600)).await;
        slots.fixture.execute("INSERT INTO t VALUES (1)").await;
        slots.everything_is_done().await;
        for _ in 0..4 {
            slots.tick().await;
        }
        assert_eq!((slots.slot, slots.rows().await), (0, (1, 0)));
    }

    #[tokio::test]
    async fn a_holder_that_was_replaced_empties_nothing_and_switches_nothing() {
        let mut slots = Slots::new(Duration::ZERO).await;
        slots.fixture.execute("INSERT INTO t VALUES (1)").await;
        slots.tick().await;
        slots.fixture.execute("INSERT INTO t VALUES (2)").await;
        let schema = &slots.fixture.options.names.schema;
        seal(&slots.fixture.session, schema, 8).await.unwrap();
        slots.tick().await;
        slots.everything_is_done().await;
        slots.tick().await;
        assert_eq!(slots.rows().await, (1, 1));
    }
}
