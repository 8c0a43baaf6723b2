//! Locks and transactions that a session keeps although nobody uses it any more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dapper_lock::{LeaseConfig, LockManager};
use dapper_testkit::{Faults, Flow, Proxy, pooler};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::fixture::{Act, Dapper, NEVER, ORDERS, Recorder, WAIT, database, ids, install, lost};
use crate::leases::{manager, resource, store};
use crate::{Harm, Pair, Row, Source};

/// The lease is renewed by way of the pool that everything else uses.
#[must_use]
pub fn shared_pool() -> Row {
    Row {
        name: "shared-pool",
        whose: const { &[Source::thread("River #695", "https://github.com/riverqueue/river/issues/695")] },
        bug: "the renewal waits for a connection of the pool that the work has used up",
        ours: "a holder has a session of its own, used on a thread of its own",
        run: || Box::pin(shared_pool_run()),
    }
}

/// The lock was granted, and nobody waits for the answer any more.
#[must_use]
pub fn grant_dropped() -> Row {
    Row {
        name: "grant-dropped",
        whose: const {
            &[Source::thread("GreptimeDB #7670", "https://github.com/GreptimeTeam/greptimedb/issues/7670")]
        },
        bug: "a campaign that timed out was granted all the same, and the session keeps the lock for ever",
        ours: "a grant that nobody waits for is given back, and ends with its time to live at the latest",
        run: || Box::pin(grant_dropped_run()),
    }
}

/// Lock and unlock reach two sessions.
#[must_use]
pub fn lock_behind_pooler() -> Row {
    Row {
        name: "lock-behind-pooler",
        whose: const {
            &[Source::thread("authentik #23876", "https://github.com/goauthentik/authentik/issues/23876")]
        },
        bug: "behind a pooler the unlock reaches another session than the lock, which stays for ever",
        ours: "a pooler is noticed, and the lease does without sessions",
        run: || Box::pin(lock_behind_pooler_run()),
    }
}

/// A transaction that was begun, and nobody knows.
#[must_use]
pub fn begin_dropped() -> Row {
    Row {
        name: "begin-dropped",
        whose: const { &[Source::thread("SQLx #4393", "https://github.com/transact-rs/sqlx/issues/4393")] },
        bug: "a BEGIN that was given up leaves its transaction to whoever gets the connection next",
        ours: "a session that was dropped in the middle is closed, never used again",
        run: || Box::pin(begin_dropped_run()),
    }
}

/// Work is given out for hours, and its worker is gone.
#[must_use]
pub fn locked_for_hours() -> Row {
    Row {
        name: "locked-for-hours",
        whose: const { &[Source::thread("Graphile Worker #222", "https://github.com/graphile/worker/issues/222")] },
        bug: "what a crashed worker held stays locked for four hours, as nobody knows that it crashed",
        ours: "the holder's session tells: a standby takes over as soon as the server has ended it",
        run: || Box::pin(locked_for_hours_run()),
    }
}

/// So many connections the pool has.
const POOL: usize = 2;
/// Short enough to see a lease end, long enough for a machine that is busy.
const TTL: Duration = Duration::from_secs(4);
/// How long the work keeps a connection.
const WORK: &str = "SELECT pg_sleep(6)";

async fn shared_pool_run() -> Result<Pair> {
    let harm = |count| Harm::new("healthy leaders lost their lease to their own work", count, 1);
    let (there, client) = database(
        "CREATE TABLE leader (expires_at timestamptz); INSERT INTO leader VALUES (clock_timestamp())",
    )
    .await?;
    let renew = format!(
        "UPDATE leader SET expires_at = clock_timestamp() + interval '{} ms' WHERE expires_at > clock_timestamp()",
        TTL.as_millis()
    );
    let pool = Arc::new(Semaphore::new(POOL));
    client.batch_execute("UPDATE leader SET expires_at = clock_timestamp() + interval '4 s'").await?;
    let lease_manager = manager(&there.url(), TTL)?;
    let lease = lease_manager.acquire(&resource()).await?;
    let mut work = Vec::new();
    for _ in 0..POOL {
        let worker = there.connect().await?;
        let connection = Arc::clone(&pool).acquire_owned().await?;
        work.push(tokio::spawn(async move {
            let done = worker.batch_execute(WORK).await;
            drop(connection);
            done
        }));
    }
    // The renewal is due, and needs a connection, too.
    let _connection = pool.acquire().await?;
    let renewed = client.execute(&renew, &[]).await?;
    for worker in work {
        worker.await??;
    }
    Ok(Pair::new(harm(usize::from(renewed == 0)), harm(usize::from(!lease.is_valid()))))
}

async fn grant_dropped_run() -> Result<Pair> {
    const PATIENCE: Duration = Duration::from_millis(300);
    let harm = |count| Harm::new("elections had no winner for ever", count, 1);
    let (there, other) = database("SELECT").await?;
    let proxy = Proxy::start(there.server().address()).await?;
    let slow = dapper_testkit::connect(&there.url_via(proxy.address())).await?;
    let campaign = "SELECT pg_try_advisory_lock(28319)";
    let prepared = slow.prepare(campaign).await?;
    proxy.set(Faults::to_client(Flow::SILENT));
    let gave_up = timeout(PATIENCE, slow.query_one(&prepared, &[])).await;
    ensure!(gave_up.is_err(), "the answer was not slow");
    proxy.set(Faults::NONE);
    // This node takes itself for a follower; the other one campaigns.
    let mut elected = false;
    let deadline = Instant::now() + NEVER;
    while Instant::now() < deadline && !elected {
        elected = other.query_one(campaign, &[]).await?.get(0);
        sleep(Duration::from_millis(50)).await;
    }

    let (one, two) = (manager(&there.url_via(proxy.address()), TTL)?, manager(&there.url(), TTL)?);
    // Connected and in order before the answers become slow.
    one.acquire(&resource()).await?.release().await?;
    proxy.set(Faults::to_client(Flow::SILENT));
    let gave_up = timeout(PATIENCE, one.acquire(&resource())).await;
    ensure!(gave_up.is_err(), "the answer was not slow");
    proxy.set(Faults::NONE);
    let ours = timeout(WAIT, two.acquire(&resource())).await.is_ok_and(|acquired| acquired.is_ok());
    Ok(Pair::new(harm(usize::from(!elected)), harm(usize::from(!ours))))
}

/// A session through a pooler that hands the server's sessions out by transaction. Uses no prepared statements.
async fn pooled(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // Each call reports how it ended.
        let _ = connection.await;
    });
    Ok(client)
}

async fn lock_behind_pooler_run() -> Result<Pair> {
    let harm = |count| Harm::new("released locks were stuck for ever", count, 1);
    let (there, direct) = database("SELECT").await?;
    let url = pooler(&there).await?;
    let (one, busy) = (pooled(&url).await?, pooled(&url).await?);
    one.simple_query("SELECT pg_advisory_lock(1000)").await?;
    // Somebody else's transaction gets the session that has the lock. The pooler has it back a moment after its answer.
    let mine = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1000 AND pid = pg_backend_pid()";
    let deadline = Instant::now() + WAIT;
    loop {
        busy.simple_query("BEGIN").await?;
        let answer = busy.simple_query(mine).await?;
        let has_it =
            answer.iter().any(|it| matches!(it, SimpleQueryMessage::Row(row) if row.get(0) == Some("1")));
        if has_it {
            break;
        }
        ensure!(Instant::now() < deadline, "the pooler never gave the session to another client");
        busy.simple_query("COMMIT").await?;
        sleep(Duration::from_millis(10)).await;
    }
    one.simple_query("SELECT pg_advisory_unlock(1000)").await?;
    busy.simple_query("COMMIT").await?;
    let mut free = false;
    let deadline = Instant::now() + NEVER;
    while Instant::now() < deadline && !free {
        free = direct.query_one("SELECT pg_try_advisory_lock(1000)", &[]).await?.get(0);
        sleep(Duration::from_millis(50)).await;
    }

    let (one, two) = (manager(&url, TTL)?, manager(&url, TTL)?);
    let lease = one.acquire(&resource()).await?;
    busy.simple_query("BEGIN").await?;
    lease.release().await?;
    busy.simple_query("COMMIT").await?;
    let ours = timeout(WAIT, two.acquire(&resource())).await.is_ok_and(|acquired| acquired.is_ok());
    Ok(Pair::new(harm(usize::from(!free)), harm(usize::from(!ours))))
}

const BORROWERS: u32 = 10;

async fn begin_dropped_run() -> Result<Pair> {
    let wanted = ids(0..BORROWERS);
    let (there, client) = database(ORDERS).await?;
    let proxy = Proxy::start(there.server().address()).await?;
    for borrower in 0..BORROWERS {
        // A pool with one connection.
        let connection = dapper_testkit::connect(&there.url_via(proxy.address())).await?;
        proxy.set(Faults::to_client(Flow::SILENT));
        let gave_up = timeout(Duration::from_millis(30), connection.batch_execute("BEGIN")).await;
        proxy.set(Faults::NONE);
        ensure!(gave_up.is_err(), "the answer was not slow");
        // The next borrower writes and takes it for committed.
        connection.execute("INSERT INTO orders VALUES ($1)", &[&i64::from(borrower)]).await?;
    }
    let rows = client.query("SELECT id::text FROM orders", &[]).await?;
    let kept: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let naive = Harm::new("writes vanished", lost(&wanted, &kept), wanted.len());

    // Dropped at many moments, each a little later than the one before, and read to the end at last.
    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let recorder = Recorder::new();
    for borrower in 0..BORROWERS {
        client.execute("INSERT INTO orders VALUES ($1)", &[&i64::from(borrower)]).await?;
        let dapper = Dapper::start(&here, Arc::clone(&recorder) as _).await?;
        sleep(Duration::from_millis(4) * borrower).await;
        dapper.crash().await;
    }
    let stranded = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND state LIKE 'idle in transaction%' AND state_change < clock_timestamp() - interval '1 s'";
    sleep(Duration::from_millis(1_200)).await;
    let stranded: i64 = client.query_one(stranded, &[]).await?.get(0);
    let dapper = Dapper::start(&here, Arc::clone(&recorder) as _).await?;
    let missing = recorder.missing(wanted.clone()).await;
    dapper.stop().await?;
    let ours = Harm::new(
        "changes lost or transactions left open",
        missing + usize::try_from(stranded)?,
        wanted.len(),
    );
    Ok(Pair::new(naive, ours))
}

async fn locked_for_hours_run() -> Result<Pair> {
    const HELD: u32 = 10;
    const LONG: Duration = Duration::from_secs(3_600);
    let wanted = ids(0..HELD);
    let harm = |got: &[String]| Harm::new("changes waited for hours", lost(&wanted, got), wanted.len());
    let (_there, client) = database(
        "CREATE TABLE jobs (id int PRIMARY KEY, locked_at timestamptz);
         INSERT INTO jobs SELECT n FROM generate_series(0, 9) n",
    )
    .await?;
    // A worker takes all of them and is gone.
    client.batch_execute("UPDATE jobs SET locked_at = clock_timestamp()").await?;
    let mut naive: Vec<String> = Vec::new();
    let deadline = Instant::now() + NEVER;
    while Instant::now() < deadline {
        let free = "DELETE FROM jobs WHERE locked_at IS NULL
            OR locked_at < clock_timestamp() - interval '4 hours' RETURNING id::text";
        naive.extend(client.query(free, &[]).await?.iter().map(|row| row.get::<_, String>(0)));
        sleep(Duration::from_millis(100)).await;
    }

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    client.batch_execute("INSERT INTO orders SELECT n FROM generate_series(0, 9) n").await?;
    // A lease of an hour, so that its time to live can't be what ends it.
    let locks = || -> Result<Arc<LockManager>> {
        Ok(Arc::new(LockManager::new(Arc::new(store(&here.url())?), LeaseConfig::from_ttl(LONG)?)))
    };
    let hanging = Recorder::that(|_, _| Act::Hang);
    let first = Dapper::start_with(&here, locks()?, &[Arc::clone(&hanging) as _]).await?;
    hanging.until(WAIT, |recorder| !recorder.called().is_empty()).await;
    let sound = Recorder::new();
    let second = Dapper::start_with(&here, locks()?, &[Arc::clone(&sound) as _]).await?;
    let holder = "SELECT pg_terminate_backend(backend) FROM dapper_lock.leases WHERE resource <> ''";
    client.query_one(holder, &[]).await.context("nobody holds the lease")?;
    sound.missing(wanted.clone()).await;
    second.stop().await?;
    first.crash().await;
    Ok(Pair::new(harm(&naive), harm(&sound.ids())))
}
