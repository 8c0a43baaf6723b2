//! What becomes of changes between the reader and the processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::fixture::{Act, Dapper, NEVER, ORDERS, Recorder, WAIT, database, ids, install, lost};
use crate::outbox::OUTBOX;
use crate::{Harm, Pair, Row, Source};

/// The position is written down when a batch is read.
#[must_use]
pub fn position_too_early() -> Row {
    Row {
        name: "position-too-early",
        whose: const { &[Source::thread("Debezium #1248", "https://github.com/debezium/debezium/pull/1248")] },
        bug: "the position is recorded when changes are read, before they are handled; a crash loses them",
        ours: "the position moves when the processes have acknowledged",
        run: || Box::pin(crash_run(Naive::PositionFirst)),
    }
}

/// The position names a transaction, and means one of its changes.
#[must_use]
pub fn shared_position() -> Row {
    Row {
        name: "shared-position",
        whose: const { &[Source::thread("Debezium #7531", "https://github.com/debezium/debezium/pull/7531")] },
        bug: "several changes share one position; after a crash in their midst the rest is skipped",
        ours: "a batch is resumed in the middle, and a position counts only when all before it is handled",
        run: || Box::pin(crash_run(Naive::TransactionAsPosition)),
    }
}

/// What comes again looks as if it came for the first time.
#[must_use]
pub fn unmarked_repeat() -> Row {
    Row {
        name: "unmarked-repeat",
        whose: const { &[Source::thread("Hasura #6844", "https://github.com/hasura/graphql-engine/issues/6844")] },
        bug: "what is delivered again after a crash can't be told from a first delivery",
        ours: "every batch is claimed before it is handed out, so `attempt` is above 1 and the event's id the same",
        run: || Box::pin(unmarked_repeat_run()),
    }
}

/// Attempts are counted when they are over.
#[must_use]
pub fn poison_uncounted() -> Row {
    Row {
        name: "poison-uncounted",
        whose: const { &[Source::thread("Sidekiq #4069", "https://github.com/sidekiq/sidekiq/issues/4069")] },
        bug: "attempts are counted after they fail, so a change that kills its process is tried for ever as the first",
        ours: "the attempt is counted in the claim, before the hand-off",
        run: || Box::pin(poison_uncounted_run()),
    }
}

/// Many workers take the next change, whatever it is.
#[must_use]
pub fn no_order_per_key() -> Row {
    Row {
        name: "no-order-per-key",
        whose: const { &[Source::thread("Hasura #8111", "https://github.com/hasura/graphql-engine/issues/8111")] },
        bug: "workers take changes side by side, and those of one row overtake each other",
        ours: "one key, one at a time, in order; other keys meanwhile",
        run: || Box::pin(order_run(false)),
    }
}

/// A change that is tried again comes after those that it should precede.
#[must_use]
pub fn retry_overtaken() -> Row {
    Row {
        name: "retry-overtaken",
        whose: const { &[Source::thread("Hasura #4043", "https://github.com/hasura/graphql-engine/issues/4043")] },
        bug: "while a change waits to be tried again, later changes of the same row are delivered",
        ours: "the later changes of a key wait behind the one that fails",
        run: || Box::pin(order_run(true)),
    }
}

/// One sink fails, and all stand still.
#[must_use]
pub fn one_bad_sink() -> Row {
    Row {
        name: "one-bad-sink",
        whose: const { &[Source::thread("Sequin #2154", "https://github.com/sequinstream/sequin/issues/2154")] },
        bug: "a sink that can't work stops the reader, and with it all other sinks",
        ours: "each link of the graph goes its own way; a failing one only holds its own keys back",
        run: || Box::pin(one_bad_sink_run()),
    }
}

/// A failure is written to the log and counts as done.
#[must_use]
pub fn failure_swallowed() -> Row {
    Row {
        name: "failure-swallowed",
        whose: const { &[Source::thread("Trellis #709", "https://github.com/xavierjohn/Trellis/pull/709")] },
        bug: "a handler's failure is logged, and the change counts as handled",
        ours: "only success counts; everything else is tried again",
        run: || Box::pin(failure_swallowed_run()),
    }
}

/// Work is given out for hours, and nobody knows that the worker is gone.
#[must_use]
pub fn worker_name_reused() -> Row {
    Row {
        name: "worker-name-reused",
        whose: const {
            &[Source::thread(
                "Procrastinate #1518",
                "https://github.com/procrastinate-org/procrastinate/issues/1518",
            )]
        },
        bug: "a worker that comes back under its old name keeps alive what it held before its crash",
        ours: "a process is a new holder each time it starts; what its predecessor held comes again",
        run: || Box::pin(worker_name_reused_run()),
    }
}

const CHANGES: u32 = 100;
/// So many are handled before the crash.
const BEFORE: usize = 10;

/// In which way the naive consumer keeps its position.
#[derive(Clone, Copy)]
enum Naive {
    PositionFirst,
    TransactionAsPosition,
    PositionLast,
}

/// Handles changes until it crashes after [`BEFORE`] of them, starts again, and goes on to the end.
async fn naive_crash(client: &Client, naive: Naive) -> Result<Vec<String>> {
    const BY_SEQ: &str = "SELECT seq, id FROM outbox WHERE seq > $1 ORDER BY seq";
    const BY_XID: &str = "SELECT xid::bigint, id FROM outbox WHERE xid::bigint > $1 ORDER BY seq";
    let statement = if matches!(naive, Naive::TransactionAsPosition) { BY_XID } else { BY_SEQ };
    let mut handled = Vec::new();
    // What survives the crash.
    let mut position = 0_i64;
    for crashes_after in [BEFORE, usize::MAX] {
        let rows = client.query(statement, &[&position]).await?;
        let last: i64 = rows.last().map_or(position, |row| row.get(0));
        if matches!(naive, Naive::PositionFirst) {
            position = last;
        }
        for row in rows.iter().take(crashes_after) {
            handled.push(row.get(1));
            if matches!(naive, Naive::TransactionAsPosition) {
                position = row.get(0);
            }
        }
    }
    Ok(handled)
}

/// The changes that all of these rows are about: one statement of the application.
fn one_statement() -> String {
    format!("INSERT INTO orders SELECT n FROM generate_series(0, {}) n", CHANGES - 1)
}

/// Dapper, dropped after [`BEFORE`] changes were handled and while the others are in the process's hands.
async fn our_crash() -> Result<[Arc<Recorder>; 2]> {
    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    client.batch_execute(&one_statement()).await?;
    let first =
        Recorder::that(|_, before| if before < BEFORE { Act::Handle(Duration::ZERO) } else { Act::Hang });
    let dapper = Dapper::start(&here, Arc::clone(&first) as _).await?;
    first.until(WAIT, |it| it.handled().len() >= BEFORE && it.called().len() > BEFORE).await;
    dapper.crash().await;
    let second = Recorder::new();
    let dapper = Dapper::start(&here, Arc::clone(&second) as _).await?;
    let before = first.ids();
    let rest = ids(0..CHANGES).into_iter().filter(|id| !before.contains(id));
    second.missing(rest).await;
    dapper.stop().await?;
    Ok([first, second])
}

async fn crash_run(naive: Naive) -> Result<Pair> {
    let wanted = ids(0..CHANGES);
    let harm = |handled: &[String]| Harm::new("changes lost", lost(&wanted, handled), wanted.len());
    let (_there, client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    client.batch_execute(&one_statement()).await?;
    let there = naive_crash(&client, naive).await?;
    let [first, second] = our_crash().await?;
    Ok(Pair::new(harm(&there), harm(&[first.ids(), second.ids()].concat())))
}

async fn unmarked_repeat_run() -> Result<Pair> {
    let (_there, client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    client.batch_execute(&one_statement()).await?;
    // Nothing is said with the change, so every repeat looks like a first delivery.
    let repeats = naive_crash(&client, Naive::PositionLast).await?.len() - CHANGES as usize;
    let harm = |count| Harm::new("repeats had no mark", count, BEFORE);

    let [first, second] = our_crash().await?;
    let mut seen: HashMap<String, Option<String>> = HashMap::new();
    let (mut again, mut unmarked) = (0, 0);
    for event in [first.called(), second.called()].concat() {
        if let Some(event_id) = seen.insert(event.id.clone(), event.event_id.clone()) {
            again += 1;
            let is_marked = event.attempt.is_some_and(|attempt| attempt > 1) && event_id == event.event_id;
            unmarked += usize::from(!is_marked);
        }
    }
    ensure!(again > 0, "nothing came again, so nothing is shown");
    Ok(Pair::new(harm(repeats), Harm::new("repeats had no mark", unmarked, again)))
}

const CRASHES: u32 = 5;

async fn poison_uncounted_run() -> Result<Pair> {
    let harm = |attempts: &[u32]| {
        let wrong = attempts.iter().zip(1..).filter(|(attempt, right)| *attempt != right).count();
        Harm::new("attempts counted wrong", wrong, CRASHES as usize)
    };
    let (_there, client) = database(
        "CREATE TABLE jobs (id int PRIMARY KEY, attempts int NOT NULL DEFAULT 0); INSERT INTO jobs VALUES (1)",
    )
    .await?;
    let mut there = Vec::new();
    for _ in 0..CRASHES {
        let attempts: i32 = client.query_one("SELECT attempts FROM jobs WHERE id = 1", &[]).await?.get(0);
        there.push(attempts.unsigned_abs() + 1);
        // The process is gone before it comes to `UPDATE jobs SET attempts = attempts + 1`.
    }

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    client.batch_execute("INSERT INTO orders VALUES (1)").await?;
    let poison = Recorder::that(|_, _| Act::Hang);
    for crash in 1..=CRASHES as usize {
        let dapper = Dapper::start(&here, Arc::clone(&poison) as _).await?;
        poison.until(WAIT, |recorder| recorder.called().len() >= crash).await;
        dapper.crash().await;
    }
    let ours: Vec<u32> = poison.called().iter().map(|event| event.attempt.unwrap_or(0)).collect();
    Ok(Pair::new(harm(&there), harm(&ours)))
}

const KEYS: u32 = 60;

/// Each row is made, changed and deleted.
async fn life(client: &Client) -> Result<()> {
    for key in 0..KEYS {
        for statement in [
            "INSERT INTO orders VALUES ($1)",
            "UPDATE orders SET note = 'changed' WHERE id = $1",
            "DELETE FROM orders WHERE id = $1",
        ] {
            client.execute(statement, &[&i64::from(key)]).await?;
        }
    }
    Ok(())
}

/// The place of an operation in a row's life.
fn stage(operation: &str) -> usize {
    match operation {
        "insert" | "create" => 0,
        "update" => 1,
        _ => 2,
    }
}

/// How many keys have something that came before what it should follow.
fn disorder(handled: &[(String, usize)]) -> Harm {
    let mut keys: HashMap<&str, Vec<usize>> = HashMap::new();
    for (key, stage) in handled {
        keys.entry(key).or_default().push(*stage);
    }
    let out_of_order = keys.values().filter(|stages| !stages.is_sorted()).count();
    Harm::new("rows had their changes out of order", out_of_order, KEYS as usize)
}

/// How long handling takes, at random.
fn a_while() -> Duration {
    Duration::from_micros(fastrand::u64(0..4_000))
}

/// Whether the first attempt at this change fails: that of making every other row.
fn fails_first(key: &str, stage: usize) -> bool {
    stage == 0 && key.parse::<u32>().is_ok_and(|key| key.is_multiple_of(2))
}

async fn order_run(with_failures: bool) -> Result<Pair> {
    let (there, client) = database(&format!(
        "{ORDERS}; {OUTBOX}; ALTER TABLE outbox ADD due timestamptz NOT NULL DEFAULT now(), ADD tries int NOT NULL DEFAULT 0"
    ))
    .await?;
    life(&client).await?;
    let mut workers = JoinSet::new();
    // With failures one worker is enough.
    for _ in 0..if with_failures { 1 } else { 8 } {
        workers.spawn(naive_worker(there.connect().await?, with_failures));
    }
    let mut handled = Vec::new();
    while let Some(worker) = workers.join_next().await {
        handled.extend(worker??);
    }
    handled.sort_by_key(|(at, ..)| *at);
    let there: Vec<(String, usize)> = handled.into_iter().map(|(_, key, stage)| (key, stage)).collect();

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    life(&client).await?;
    let recorder = Recorder::that(move |event, _| {
        let first = event.attempt == Some(1);
        if with_failures && first && fails_first(&event.id, stage(&event.operation.to_string())) {
            Act::Fail
        } else {
            Act::Handle(a_while())
        }
    });
    let dapper = Dapper::start(&here, Arc::clone(&recorder) as _).await?;
    recorder.until(WAIT, |recorder| recorder.handled().len() >= 3 * KEYS as usize).await;
    dapper.stop().await?;
    let handled = recorder.handled();
    ensure!(handled.len() == 3 * KEYS as usize, "only {} changes were handled", handled.len());
    let here: Vec<(String, usize)> =
        handled.iter().map(|event| (event.id.clone(), stage(&event.operation.to_string()))).collect();
    Ok(Pair::new(disorder(&there), disorder(&here)))
}

/// Takes the next change that is due and that nobody has, until there is none.
async fn naive_worker(
    client: Client,
    with_failures: bool,
) -> Result<Vec<(std::time::Instant, String, usize)>> {
    // A failed one is due again a little later.
    const NEXT: &str = "SELECT seq, id, op, tries FROM outbox WHERE due <= clock_timestamp()
        ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED";
    const LATER: &str =
        "UPDATE outbox SET tries = tries + 1, due = clock_timestamp() + interval '50 ms' WHERE seq = $1";
    const DONE: &str = "DELETE FROM outbox WHERE seq = $1";
    let mut handled = Vec::new();
    loop {
        client.batch_execute("BEGIN").await?;
        let Some(row) = client.query_opt(NEXT, &[]).await? else {
            client.batch_execute("COMMIT").await?;
            let left: i64 = client.query_one("SELECT count(*) FROM outbox", &[]).await?.get(0);
            if left == 0 || !with_failures {
                return Ok(handled);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let (seq, key, operation, tries): (i64, String, String, i32) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if with_failures && tries == 0 && fails_first(&key, stage(&operation)) {
            client.execute(LATER, &[&seq]).await?;
        } else {
            tokio::time::sleep(a_while()).await;
            handled.push((std::time::Instant::now(), key, stage(&operation)));
            client.execute(DONE, &[&seq]).await?;
        }
        client.batch_execute("COMMIT").await?;
    }
}

async fn one_bad_sink_run() -> Result<Pair> {
    let wanted = ids(0..CHANGES);
    let harm =
        |got: &[String]| Harm::new("changes did not reach the sound sink", lost(&wanted, got), wanted.len());
    let (_there, client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    client.batch_execute(&one_statement()).await?;
    let mut there = Vec::new();
    let mut sound = |id| {
        there.push(id);
        Ok(())
    };
    let mut bad = |_| bail!("it can't be registered");
    let mut sinks: [&mut (dyn FnMut(String) -> Result<()> + Send); 2] = [&mut bad, &mut sound];
    // The reader ends with the first error of any sink.
    let mut changes = client.query("SELECT id FROM outbox ORDER BY seq", &[]).await?.into_iter();
    let stopped = changes.try_for_each(|row| sinks.iter_mut().try_for_each(|sink| sink(row.get(0))));
    ensure!(stopped.is_err(), "the bad sink is not bad");

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    client.batch_execute(&one_statement()).await?;
    let bad = Recorder::named("bad", |_, _| Act::Fail);
    let sound = Recorder::named("sound", |_, _| Act::Handle(Duration::ZERO));
    let locks = crate::fixture::locks(Arc::new(dapper_lock::MemoryStore::new()))?;
    let dapper = Dapper::start_with(&here, locks, &[Arc::clone(&bad) as _, Arc::clone(&sound) as _]).await?;
    sound.missing(wanted.clone()).await;
    dapper.crash().await;
    Ok(Pair::new(harm(&there), harm(&sound.ids())))
}

async fn failure_swallowed_run() -> Result<Pair> {
    let wanted = ids(0..CHANGES);
    let harm = |got: &[String]| Harm::new("changes were never handled", lost(&wanted, got), wanted.len());
    let fails = |before: usize| before.is_multiple_of(10);
    let (_there, client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    client.batch_execute(&one_statement()).await?;
    let mut there: Vec<String> = Vec::new();
    for (before, row) in client.query("SELECT id FROM outbox ORDER BY seq", &[]).await?.iter().enumerate() {
        let handled = if fails(before) { Err("a passing failure") } else { Ok(row.get(0)) };
        // An error is for the log; the position moves on.
        there.extend(handled);
    }
    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    client.batch_execute(&one_statement()).await?;
    let recorder =
        Recorder::that(move |_, before| if fails(before) { Act::Fail } else { Act::Handle(Duration::ZERO) });
    let dapper = Dapper::start(&here, Arc::clone(&recorder) as _).await?;
    recorder.missing(wanted.clone()).await;
    dapper.stop().await?;
    Ok(Pair::new(harm(&there), harm(&recorder.ids())))
}

async fn worker_name_reused_run() -> Result<Pair> {
    const HELD: u32 = 10;
    let wanted = ids(0..HELD);
    let harm = |got: &[String]| {
        Harm::new("changes stuck in a dead worker's hands", lost(&wanted, got), wanted.len())
    };
    const JOBS: &str = "CREATE TABLE workers (id text PRIMARY KEY, heartbeat timestamptz NOT NULL);
        CREATE TABLE jobs (id int PRIMARY KEY, worker text REFERENCES workers);
        INSERT INTO jobs SELECT n FROM generate_series(0, 9) n";
    const BEAT: &str = "INSERT INTO workers VALUES ('pod-0', clock_timestamp())
        ON CONFLICT (id) DO UPDATE SET heartbeat = clock_timestamp()";
    const STALLED: &str = "UPDATE jobs SET worker = NULL FROM workers w
        WHERE w.id = jobs.worker AND w.heartbeat < clock_timestamp() - interval '500 ms'";
    let (_there, client) = database(JOBS).await?;
    client.batch_execute(BEAT).await?;
    client.batch_execute("UPDATE jobs SET worker = 'pod-0'").await?;
    // Here it is killed, and starts again under the same name.
    let mut there = Vec::new();
    let deadline = tokio::time::Instant::now() + NEVER;
    while tokio::time::Instant::now() < deadline {
        client.batch_execute(BEAT).await?;
        client.batch_execute(STALLED).await?;
        let taken = client.query("DELETE FROM jobs WHERE worker IS NULL RETURNING id::text", &[]).await?;
        there.extend(taken.iter().map(|row| row.get::<_, String>(0)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    client.batch_execute("INSERT INTO orders SELECT n FROM generate_series(0, 9) n").await?;
    let killed = Recorder::that(|_, _| Act::Hang);
    let dapper = Dapper::start(&here, Arc::clone(&killed) as _).await?;
    killed.until(WAIT, |recorder| !recorder.called().is_empty()).await;
    dapper.crash().await;
    let again = Recorder::new();
    let dapper = Dapper::start(&here, Arc::clone(&again) as _).await?;
    again.missing(wanted.clone()).await;
    dapper.stop().await?;
    Ok(Pair::new(harm(&there), harm(&again.ids())))
}
