//! Positions that skip what was not there yet, or no longer mean what they meant.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use dapper_core::{CancellationToken, ErrorKind, EventSink};
use dapper_lock::MemoryStore;
use dapper_postgres::PostgresInput;
use dapper_testkit::{Database, Server, ServerOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::fixture::{ORDERS, WAIT, config, database, ids, locks, lost};
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

/// Positions of another cluster.
#[must_use]
pub fn other_cluster() -> Row {
    Row {
        name: "other-cluster",
        whose: const {
            &[
                Source::thread("Sliceworkz #143", "https://github.com/sliceworkz/eventstore/pull/143"),
                Source::thread("Watermill #576", "https://github.com/ThreeDotsLabs/watermill/issues/576"),
            ]
        },
        bug: "after dump and restore into a younger cluster the position's transaction id lies in the future",
        ours: "the cursor knows its cluster, refuses another by name, and `dapper rebase` delivers all that is there",
        run: || Box::pin(other_cluster_run()),
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

/// So many changes are handled before the dump, so many are unread then, and so many come after it.
const EACH: u32 = 10;
/// How many transactions the old cluster is ahead of a new one, at least.
const AHEAD: u32 = 5_000;

async fn write(client: &Client, part: u32) -> Result<()> {
    for number in part * EACH..(part + 1) * EACH {
        client.execute("INSERT INTO orders VALUES ($1)", &[&i64::from(number)]).await?;
    }
    Ok(())
}

async fn other_cluster_run() -> Result<Pair> {
    let unread = ids(EACH..3 * EACH);
    let harm =
        |handled: &[String]| Harm::new("changes were never seen", lost(&unread, handled), unread.len());
    let server = tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default())).await??;

    let (there, client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    let ahead = format!(
        "DO $$ BEGIN FOR n IN 1..{AHEAD} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    );
    client.batch_execute(&ahead).await?;
    write(&client, 0).await?;
    const READ: &str = "SELECT xid, id FROM outbox WHERE xid::xid8 > $1::text::xid8
        AND pg_visible_in_snapshot(xid::xid8, pg_current_snapshot()) ORDER BY xid::xid8, seq";
    let mut before = Reader::new(&there, READ, None, "0").await?;
    before.handled(0).await?;
    write(&client, 1).await?;
    let restored = restore(&there, &server).await?;
    write(&restored.connect().await?, 2).await?;
    let naive = Reader::new(&restored, READ, None, before.position()).await?.handled(0).await?;

    let (here, client) = database(ORDERS).await?;
    let mut ours = Ours::start(&here).await?;
    write(&client, 0).await?;
    ours.handled(EACH as usize).await?;
    ours.stop().await?;
    write(&client, 1).await?;
    let restored = restore(&here, &server).await?;
    write(&restored.connect().await?, 2).await?;
    let input = PostgresInput::new(config(restored.url()), locks(Arc::new(MemoryStore::new()))?).await?;
    let (deliveries, _taker) = mpsc::channel(1);
    let (complaints, _reader) = mpsc::channel(1);
    let refused = input.handle(EventSink::new(deliveries, complaints), CancellationToken::new());
    let refused = timeout(WAIT, refused).await?.err().context("the restored cluster was not refused")?;
    ensure!(refused.kind() == ErrorKind::Permanent, "refused for another reason: {refused:?}");
    dapper_postgres::rebase(&config(restored.url())).await?;
    let mut ours = Ours::start(&restored).await?;
    let handled = ours.handled(3 * EACH as usize).await?;
    ours.stop().await?;
    Ok(Pair::new(harm(&naive), harm(&handled)))
}

/// A database dumped, and restored on another server.
async fn restore(from: &Database, server: &Server) -> Result<Database> {
    let to = Database::create_on(server).await?;
    let (source, target) = (from.url(), to.url());
    let bin = server.bin().map(Path::to_owned);
    tokio::task::spawn_blocking(move || {
        let tool = |name: &str| bin.as_ref().map_or_else(|| name.into(), |bin| bin.join(name));
        let dump = Command::new(tool("pg_dump")).args(["--dbname", &source]).output()?;
        ensure!(dump.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dump.stderr));
        let mut psql = Command::new(tool("psql"))
            .args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", &target])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        psql.stdin.take().context("psql has no input")?.write_all(&dump.stdout)?;
        ensure!(psql.wait()?.success(), "psql failed");
        Ok(())
    })
    .await??;
    Ok(to)
}
