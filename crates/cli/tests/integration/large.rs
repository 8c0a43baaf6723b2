//! One transaction of very many rows: replicas as processes deliver all of it in bounded memory, also when the holder dies
//! in the middle.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dapper_testkit::{Cluster, ClusterOptions, Replica};
use tokio_postgres::Client;

use crate::support::{SMALL, database};

/// A build without optimization takes about half a minute for so many.
const ROWS: u64 = 1_000_000;
/// Every so many rows are changed once more in the same transaction.
const UPDATED: u64 = 100;
/// What a replica may ever have had in memory, however large the transaction is.
const MEMORY_KIB: u64 = 256 << 10;
const LIMIT: Duration = Duration::from_secs(120);

/// What was printed so far.
#[derive(Default)]
struct Printed {
    lines: u64,
    /// How often each change came, the creations first.
    created: HashMap<u64, u32>,
    updated: HashMap<u64, u32>,
    repeats: u64,
    unmarked: u64,
    out_of_order: u64,
}

impl Printed {
    fn take(&mut self, line: &str) {
        let id = field(line, "\"id\":\"").parse().unwrap();
        let first = field(line, "\"attempt\":") == "1";
        let update = match field(line, "\"operation\":\"") {
            "create" => false,
            "update" => true,
            other => panic!("nobody did {other:?}"),
        };
        self.out_of_order += u64::from(update && !self.created.contains_key(&id));
        // A creation that comes again after the update was handled is a repeat as any other.
        let times = if update { &mut self.updated } else { &mut self.created }.entry(id).or_default();
        *times += 1;
        self.lines += 1;
        self.repeats += u64::from(*times > 1);
        self.unmarked += u64::from(*times > 1 && first);
    }
}

/// What stands between `start` and the next quote, comma or brace.
fn field<'a>(line: &'a str, start: &str) -> &'a str {
    let (_, rest) = line.split_once(start).unwrap_or_else(|| panic!("no {start} in {line}"));
    rest.split(['"', ',', '}']).next().unwrap_or_default()
}

fn collect(output: PipeReader) -> Arc<Mutex<Printed>> {
    let printed = Arc::new(Mutex::new(Printed::default()));
    let shared = Arc::clone(&printed);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            shared.lock().unwrap().take(&line);
        }
    });
    printed
}

/// The most memory that a process had at any time since it began.
fn peak_kib(replica: &Replica) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", replica.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_any_size_is_delivered_in_bounded_memory_also_when_the_holder_is_killed() {
    let (database, client) = database().await;
    let mut cluster = Cluster::new(ClusterOptions {
        program: env!("CARGO_BIN_EXE_dapper").into(),
        pipeline: SMALL.to_owned(),
        environment: vec![("DATABASE_URL".into(), database.url())],
        ..Default::default()
    })
    .unwrap();
    let printed = collect(cluster.collect_output().unwrap());
    let lines = || printed.lock().unwrap().lines;
    for _ in 0..2 {
        cluster.start_replica().unwrap();
    }
    let first = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    covered(&client).await;

    let started = Instant::now();
    client
        .batch_execute(&format!(
            "BEGIN; INSERT INTO orders SELECT generate_series(1, {ROWS});
             UPDATE orders SET id = id WHERE id % {UPDATED} = 0; COMMIT"
        ))
        .await
        .unwrap();
    let committed = started.elapsed();
    until("a part of it", async || lines() >= ROWS / 5).await;
    let holder = &cluster.replicas()[first.replica];
    let mut peaks = vec![peak_kib(holder)];
    holder.kill_9().unwrap();
    let second = cluster.wait_for_leader(first.token, LIMIT).await.unwrap();
    let all = || {
        let printed = printed.lock().unwrap();
        (printed.created.len() as u64, printed.updated.len() as u64) == (ROWS, ROWS / UPDATED)
    };
    until("all of it", async || all()).await;
    peaks.push(peak_kib(&cluster.replicas()[second.replica]));

    let found = printed.lock().unwrap();
    eprintln!(
        "{ROWS} rows were committed in {committed:.1?} and delivered in {:.1?}, with {} repeats; most memory: {peaks:?} KiB",
        started.elapsed(),
        found.repeats
    );
    assert_eq!((found.unmarked, found.out_of_order), (0, 0));
    assert!(found.created.keys().all(|id| (1..=ROWS).contains(id)));
    assert!(peaks.iter().all(|&peak| peak < MEMORY_KIB), "{peaks:?} KiB");
}

async fn covered(client: &Client) {
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dapper%'";
    until("the table is covered", async || {
        client.query_one(triggers, &[]).await.unwrap().get::<_, i64>(0) >= 3
    })
    .await;
}

async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_true().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
