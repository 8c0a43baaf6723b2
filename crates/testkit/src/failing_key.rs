//! A webhook that refuses one key for long: what that costs the other keys, and what becomes of the key afterwards.
//!
//! Two databases, each with a replica and a receiver of its own, get the same load in turns, a slice of time each, so that
//! whatever else changes on the machine meets both. In one of them the receiver answers 500 for one key the whole time.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use crate::failover::Failure;
use crate::{Cluster, ClusterOptions, Database, Memory, Received, Receiver, Reply, Server, connect};

/// The key that is refused.
const REFUSED: u64 = 0;
/// As many changes of the refused key as of the others are one in so many.
const ONE_IN: u64 = 10;
const KEYS: u64 = 500;
const START_LIMIT: Duration = Duration::from_secs(60);
/// The wait for what is outstanding ends when nothing has come for so long.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
/// Of each slice this much is not counted, in which what slept wakes up.
const WARM_UP: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Clone, Debug)]
pub struct FailingKeyOptions {
    /// The `dapper` program.
    pub program: PathBuf,
    /// How long the key is refused.
    pub limit: Duration,
    /// How long each of the two has the load before it is the other's turn.
    pub slice: Duration,
    /// Changes per second.
    pub rate: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct FailingKeyReport {
    /// From before a change is sent to the server until its request is there, where no key is refused; sorted.
    pub without: Vec<Duration>,
    /// The same of all other keys where one is refused.
    pub with: Vec<Duration>,
    /// How long the key was refused.
    pub refused_for: Duration,
    /// Requests that were refused.
    pub refusals: usize,
    /// Changes of the refused key.
    pub held_back: usize,
    /// Events that were parked when the key was let go.
    pub parked: u64,
    /// From then until all of them had come.
    pub caught_up: Duration,
    /// What was wrong, latency aside.
    pub wrong: Vec<String>,
}

/// The changes of one key: when each was sent, and the numbers that came, in order.
#[derive(Debug, Default)]
struct Key {
    sent: Vec<(Instant, bool)>,
    came: Vec<(u64, Instant)>,
}

#[derive(Debug, Default)]
struct Record {
    keys: HashMap<u64, Key>,
    seen: HashSet<String>,
    refusing: bool,
    refusals: usize,
    last: Option<Instant>,
    wrong: Vec<String>,
}

/// One of the two.
struct Side {
    record: Arc<Mutex<Record>>,
    client: Client,
    _cluster: Cluster,
    _receiver: Receiver,
    _database: Database,
}

impl FailingKeyReport {
    /// The latency that so many of a thousand do not exceed, without and with the refused key.
    #[must_use]
    pub fn percentiles(&self, thousandths: usize) -> [Duration; 2] {
        [&self.without, &self.with].map(|times| {
            let rank = (times.len() * thousandths).div_ceil(1000).max(1);
            times.get(rank - 1).copied().unwrap_or_default()
        })
    }

    fn judge_refused(&mut self, record: &Record, freed: Instant) {
        self.refusals = record.refusals;
        let Some(key) = record.keys.get(&REFUSED) else { return };
        self.held_back = key.sent.len();
        self.caught_up = key.came.last().map_or(Duration::MAX, |(_, at)| *at - freed);
        if key.came.iter().any(|(_, at)| *at < freed) {
            self.wrong.push("an event of the refused key was taken before it was let go".to_owned());
        }
    }

    /// The p99 with the refused key, as a multiple of that without.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let [without, with] = self.percentiles(990);
        with.as_secs_f64() / without.as_secs_f64().max(f64::EPSILON)
    }
}

/// Runs it.
///
/// # Errors
/// When a server or a replica does not come about. Not a verdict on what was to be tried.
pub async fn run(options: &FailingKeyOptions, progress: impl Fn(&str)) -> Result<FailingKeyReport, Failure> {
    let server = tokio::task::spawn_blocking(|| Server::start(&crate::ServerOptions::default())).await??;
    let healthy = Side::open(&server, options).await?;
    let failing = Side::open(&server, options).await?;
    let begun = Instant::now();
    lock(&failing.record).refusing = true;
    let mut slices = 0_u32;
    while begun.elapsed() < options.limit {
        // Who is first changes, too.
        let turns = if slices.is_multiple_of(2) { [&healthy, &failing] } else { [&failing, &healthy] };
        for side in turns {
            side.load(options).await?;
        }
        slices += 1;
        let refusals = lock(&failing.record).refusals;
        progress(&format!("{:4} s, {refusals} requests refused", begun.elapsed().as_secs()));
    }
    failing.settle(|number| number != REFUSED).await;
    let parked = failing.parked().await?;
    let freed = Instant::now();
    let refused_for = freed - begun;
    lock(&failing.record).refusing = false;
    for side in [&healthy, &failing] {
        side.settle(|_| true).await;
    }
    let mut report = FailingKeyReport { refused_for, parked, ..FailingKeyReport::default() };
    report.judge_refused(&lock(&failing.record), freed);
    report.without = healthy.judge("without a refused key", &mut report.wrong);
    report.with = failing.judge("with a refused key", &mut report.wrong);
    if report.parked == 0 || report.refusals == 0 {
        report.wrong.push("nothing was refused, or nothing parked".to_owned());
    }
    tokio::task::spawn_blocking(move || drop((healthy, failing, server))).await?;
    Ok(report)
}

impl Side {
    async fn open(server: &Server, options: &FailingKeyOptions) -> Result<Self, Failure> {
        let database = Database::create_on(server).await?;
        let client = connect(&database.url()).await?;
        let tables = format!(
            "CREATE TABLE items (id bigint PRIMARY KEY, n bigint NOT NULL);
             INSERT INTO items SELECT g, 0 FROM generate_series(0, {}) g",
            KEYS - 1
        );
        client.batch_execute(&tables).await?;
        let record = Arc::new(Mutex::new(Record::default()));
        let receiver = Receiver::remembering(Memory::Deliveries).await?;
        let of_request = Arc::clone(&record);
        receiver.reply_with(move |request| lock(&of_request).arrive(request));
        let mut cluster = Cluster::new(ClusterOptions {
            program: options.program.clone(),
            pipeline: pipeline(),
            environment: vec![
                ("DATABASE_URL".to_owned(), database.url()),
                ("HOOK_URL".to_owned(), receiver.url()),
            ],
            ..ClusterOptions::default()
        })?;
        let replica = cluster.start_replica()?;
        replica.wait_for_line(START_LIMIT, |line| line.message() == "tables under capture").await?;
        cluster.wait_for_leader(0, START_LIMIT).await?;
        Ok(Self { record, client, _cluster: cluster, _receiver: receiver, _database: database })
    }

    /// One slice of changes, each a statement of its own.
    async fn load(&self, options: &FailingKeyOptions) -> Result<(), Failure> {
        let update = self.client.prepare("UPDATE items SET n = $2 WHERE id = $1").await?;
        let begun = Instant::now();
        let mut ticks = interval(Duration::from_secs(1) / options.rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut change = 0_u64;
        while begun.elapsed() < options.slice {
            ticks.tick().await;
            change += 1;
            let number = if change.is_multiple_of(ONE_IN) { REFUSED } else { fastrand::u64(1..KEYS) };
            let counts = begun.elapsed() >= WARM_UP.min(options.slice / 4);
            let n = {
                let mut record = lock(&self.record);
                let key = record.keys.entry(number).or_default();
                key.sent.push((Instant::now(), counts));
                key.sent.len() as i64
            };
            self.client.execute(&update, &[&(number as i64), &n]).await?;
        }
        Ok(())
    }

    /// Waits until everything of these keys has come, or nothing comes any more.
    async fn settle(&self, wanted: impl Fn(u64) -> bool) {
        let begun = Instant::now();
        loop {
            let quiet = {
                let record = lock(&self.record);
                let mut keys = record.keys.iter().filter(|(number, _)| wanted(**number));
                if keys.all(|(_, key)| key.came.len() >= key.sent.len()) {
                    return;
                }
                record.last.map_or_else(|| begun.elapsed(), |last| last.elapsed().min(begun.elapsed()))
            };
            if quiet > QUIET_LIMIT {
                return;
            }
            sleep(POLL).await;
        }
    }

    async fn parked(&self) -> Result<u64, Failure> {
        let count = "SELECT count(*) FROM dapper_items.parked";
        Ok(self.client.query_one(count, &[]).await?.get::<_, i64>(0).unsigned_abs())
    }

    /// Says what is wrong; returns the latencies of all keys but the refused one, sorted.
    fn judge(&self, name: &str, wrong: &mut Vec<String>) -> Vec<Duration> {
        let record = lock(&self.record);
        wrong.extend(record.wrong.iter().map(|finding| format!("{name}: {finding}")));
        let mut times = Vec::new();
        for (number, key) in &record.keys {
            let came = key.came.iter().map(|(n, _)| *n);
            if !came.eq(1..=key.sent.len() as u64) {
                let numbers: Vec<u64> = key.came.iter().map(|(n, _)| *n).take(20).collect();
                wrong.push(format!("{name}: key {number}: {} changes, came {numbers:?}…", key.sent.len()));
            }
            if *number != REFUSED {
                let pairs = key.sent.iter().zip(&key.came).filter(|((_, counts), _)| *counts);
                times.extend(pairs.map(|((sent, _), (_, came))| *came - *sent));
            }
        }
        times.sort_unstable();
        times
    }
}

impl Record {
    fn arrive(&mut self, request: &Received) -> Reply {
        let now = Instant::now();
        let number = request.text("id").and_then(|id| id.parse::<u64>().ok());
        let n = request.body.pointer("/new/n").and_then(serde_json::Value::as_u64);
        let (Some(number), Some(n), Some(id)) = (number, n, request.text("event_id")) else {
            self.wrong.push(format!("malformed: {}", request.body));
            return Reply::OK;
        };
        if number == REFUSED && self.refusing {
            self.refusals += 1;
            return Reply::status(500);
        }
        if self.seen.insert(id.to_owned()) {
            self.keys.entry(number).or_default().came.push((n, now));
            self.last = Some(now);
        } else {
            // Nobody is killed here, so nothing has a reason to come twice.
            self.wrong.push(format!("key {number}: change {n} came again"));
        }
        Reply::OK
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key is tried again at least every two seconds, which is far more often than by default, and never given up.
fn pipeline() -> String {
    "[[inputs]]\nname = \"items\"\ntype = \"postgres\"\nconnection_string = \"${DATABASE_URL}\"\nimages = \"new\"\n\n\
     [[processes]]\nname = \"hook\"\ntype = \"webhook\"\n[processes.execution_context]\nurl = \"${HOOK_URL}\"\n\
     [processes.retry]\nmax_backoff = \"2s\"\nmax_attempts = 1000000\n\n\
     [[links]]\ninput = \"items\"\nprocess = \"hook\"\n"
        .to_owned()
}
