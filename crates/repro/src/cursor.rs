//! Positions that skip what was not there yet, or no longer mean what they meant.

use anyhow::Result;
use dapper_testkit::Database;

use crate::fixture::{ORDERS, database, ids, lost};
use crate::outbox::{Consumer, OUTBOX, Ours, Reader};
use crate::{Harm, Pair, Row, Source};

/// A position by sequence number passes over a number whose transaction is still open.
#[must_use]
pub fn bare_serial() -> Row {
    Row {
        name: "bare-serial",
        whose: const {
            &[
                Source::thread("Watermill #311", "https://github.com/ThreeDotsLabs/watermill/issues/311"),
                Source::thread("Marten #1629", "https://github.com/JasperFx/marten/issues/1629"),
            ]
        },
        bug: "the cursor is a sequence number, and numbers are not given in the order of commits",
        ours: "the cursor is a snapshot",
        run: || {
            Box::pin(overtaken(
                "SELECT seq::text, id FROM outbox WHERE seq > $1::text::bigint ORDER BY seq",
                "0",
            ))
        },
    }
}

/// A position by time passes over a transaction that began earlier.
#[must_use]
pub fn position_from_now() -> Row {
    Row {
        name: "position-from-now",
        whose: const { &[Source::thread("Zitadel #12703", "https://github.com/zitadel/zitadel/pull/12703")] },
        bug: "the cursor is `now()`, which is when a transaction began, not when it committed",
        ours: "the cursor is a snapshot; no clock is asked",
        run: || {
            Box::pin(overtaken(
                "SELECT at::text, id FROM outbox WHERE at > $1::text::timestamptz ORDER BY at",
                "-infinity",
            ))
        },
    }
}

/// The snapshot that becomes the position is a later one than that which was read.
#[must_use]
pub fn later_snapshot() -> Row {
    Row {
        name: "later-snapshot",
        whose: const { &[Source::thread("Marten #4977", "https://github.com/JasperFx/marten/pull/4977")] },
        bug: "rows and position are read by two statements, and something commits between them",
        ours: "one statement gives the rows and the snapshot it read them by",
        run: || Box::pin(under_fire()),
    }
}

/// How often a transaction is overtaken by a later one.
const OVERTAKEN: u32 = 20;

async fn overtaken(statement: &'static str, beginning: &'static str) -> Result<Pair> {
    let (there, _client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    let mut naive = Reader::new(&there, statement, None, beginning).await?;
    let naive = overtake(&there, &mut naive).await?;
    let (here, _client) = database(ORDERS).await?;
    let mut ours = Ours::start(&here).await?;
    let seen = overtake(&here, &mut ours).await?;
    ours.stop().await?;
    Ok(Pair::new(naive, seen))
}

/// One transaction writes, another one begins later, writes and commits; both are to be handled in the end.
async fn overtake(database: &Database, consumer: &mut impl Consumer) -> Result<Harm> {
    let (slow, fast) = (database.connect().await?, database.connect().await?);
    let mut handled = Vec::new();
    for round in 0..OVERTAKEN {
        let (first, second) = (2 * round, 2 * round + 1);
        slow.batch_execute(&format!("BEGIN; INSERT INTO orders VALUES ({first})")).await?;
        fast.batch_execute(&format!("INSERT INTO orders VALUES ({second})")).await?;
        consumer.handled(first as usize + 1).await?;
        slow.batch_execute("COMMIT").await?;
        handled = consumer.handled(first as usize + 2).await?;
    }
    Ok(Harm::new("changes lost", lost(&ids(0..2 * OVERTAKEN), &handled), 2 * OVERTAKEN as usize))
}

const WRITERS: u32 = 4;
const WRITES: u32 = 250;

async fn under_fire() -> Result<Pair> {
    const READ: &str = "SELECT $1::text, id FROM outbox
        WHERE NOT pg_visible_in_snapshot(xid::xid8, $1::text::pg_snapshot) ORDER BY seq";
    const THEN: &str = "SELECT pg_current_snapshot()::text";
    let (there, client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    let position: String = client.query_one(THEN, &[]).await?.get(0);
    let mut naive = Reader::new(&there, READ, Some(THEN), &position).await?;
    let naive = fire(&there, &mut naive).await?;
    let (here, _client) = database(ORDERS).await?;
    let mut ours = Ours::start(&here).await?;
    let seen = fire(&here, &mut ours).await?;
    ours.stop().await?;
    Ok(Pair::new(naive, seen))
}

/// Several writers write while the consumer handles.
async fn fire(database: &Database, consumer: &mut impl Consumer) -> Result<Harm> {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = database.connect().await?;
        writers.push(tokio::spawn(async move {
            for n in 0..WRITES {
                client.batch_execute(&format!("INSERT INTO orders VALUES ({})", writer * WRITES + n)).await?;
            }
            Ok::<(), tokio_postgres::Error>(())
        }));
    }
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        consumer.handled(0).await?;
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await??;
    }
    let all = WRITERS * WRITES;
    let handled = consumer.handled(all as usize).await?;
    Ok(Harm::new("changes lost", lost(&ids(0..all), &handled), all as usize))
}
