//! Many replicas of one input, whose server restarts under them.

use std::io::{BufRead, BufReader, PipeReader};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dapper_testkit::{Cluster, ClusterOptions, Database, Server, ServerOptions, StopMode};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::SMALL;

const REPLICAS: usize = 20;
/// A lease's session and an input's, and one that is being replaced or looks after tables.
const SESSIONS_EACH: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);
const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

fn collect(output: PipeReader) -> Arc<Mutex<Vec<Value>>> {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&printed);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            shared.lock().unwrap().push(serde_json::from_str(&line).unwrap());
        }
    });
    printed
}

async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_true().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Looks again and again how many sessions there are, until it is dropped; whoever restarts the server ends none of it.
struct Watch {
    most: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(database: &Database) -> Self {
        let (most, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let (url, peak, stopped) = (database.url(), Arc::clone(&most), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(client) = dapper_testkit::connect(&url).await {
                    while let Ok(row) = client.query_one(SESSIONS, &[]).await {
                        peak.fetch_max(row.get(0), Ordering::Relaxed);
                        if stopped.load(Ordering::Relaxed) {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { most, stop }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn server_of_its_own() -> (Server, Database, Client) {
    let server =
        tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default()).unwrap()).await.unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY)").await.unwrap();
    (server, database, client)
}

async fn restart(server: &Server, mode: StopMode) {
    let server = server.clone();
    tokio::task::spawn_blocking(move || {
        server.stop(mode).unwrap();
        server.restart().unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_replicas_come_back_when_their_server_restarts_one_leads_and_their_sessions_are_few() {
    let (server, database, mut client) = server_of_its_own().await;
    let mut cluster = Cluster::new(ClusterOptions {
        program: env!("CARGO_BIN_EXE_dapper").into(),
        pipeline: format!("[lock]\nttl = \"3s\"\n\n{SMALL}"),
        environment: vec![("DATABASE_URL".into(), database.url())],
        ..Default::default()
    })
    .unwrap();
    let printed = collect(cluster.collect_output().unwrap());
    for _ in 0..REPLICAS {
        cluster.start_replica().unwrap();
    }
    let mut leader = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    for replica in cluster.replicas().iter().filter(|replica| replica.number() != leader.replica) {
        replica.wait_for_line(LIMIT, |line| line.message() == "standing by").await.unwrap();
    }
    let covered = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dapper%'";
    until("the table is covered", async || count(&client, covered).await >= 3).await;
    let watch = Watch::start(&database);
    until("the watch looks", async || watch.most.load(Ordering::Relaxed) > 0).await;
    let calm = count(&client, SESSIONS).await;

    for (round, mode) in [(1, StopMode::Fast), (2, StopMode::Immediate)] {
        client.batch_execute(&format!("INSERT INTO orders VALUES ({round})")).await.unwrap();
        restart(&server, mode).await;
        client = database.connect().await.unwrap();
        client.batch_execute(&format!("INSERT INTO orders VALUES ({})", round + 10)).await.unwrap();
        leader = cluster.wait_for_leader(leader.token, LIMIT).await.unwrap();
        let ids = [round, round + 10].map(|id| id.to_string());
        until("both rows", async || {
            let printed = printed.lock().unwrap();
            ids.iter().all(|id| printed.iter().any(|event| event["id"] == id.as_str()))
        })
        .await;
        until("as many sessions as before", async || count(&client, SESSIONS).await >= calm).await;
    }
    // Time for a second leader, if there could be one.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(cluster.leader(), Some(leader));
    let leading =
        cluster.replicas().iter().filter(|replica| replica.log().held_token() == Some(leader.token));
    assert_eq!(leading.count(), 1);
    assert!(cluster.replicas().iter().all(dapper_testkit::Replica::is_running));
    let most = usize::try_from(watch.most.load(Ordering::Relaxed)).unwrap();
    eprintln!("at most {most} sessions of {REPLICAS} replicas");
    assert!(most > REPLICAS, "nobody looked");
    assert!(most <= REPLICAS * SESSIONS_EACH, "{most} sessions");

    assert_marked(&printed.lock().unwrap());
}

fn assert_marked(printed: &[Value]) {
    for (at, event) in printed.iter().enumerate() {
        let repeat = printed[..at].iter().any(|earlier| earlier["event_id"] == event["event_id"]);
        assert!(!repeat || event["attempt"].as_u64() > Some(1), "{event} came again unmarked");
    }
}
