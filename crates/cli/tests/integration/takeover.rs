//! Replicas as processes, whose holder is killed again and again under load.

use std::time::{Duration, Instant};

use dapper_testkit::history::check;
use dapper_testkit::{Cluster, ClusterOptions, Database, Memory, Receiver, Workload, WorkloadOptions};

const LIMIT: Duration = Duration::from_secs(60);
const CHANGES: u64 = 50_000;
const KILLS: u64 = 5;

const PIPELINE: &str = r#"
[[inputs]]
name = "orders-input"
type = "postgres"
connection_string = "${DATABASE_URL}"

[[processes]]
name = "notify"
type = "webhook"
[processes.execution_context]
url = "${RECEIVER_URL}"

[[links]]
input = "orders-input"
process = "notify"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_repeated_unmarked_or_reordered_while_the_holder_is_killed_five_times() {
    let database = Database::create().await.unwrap();
    Workload::create_tables(&database.url()).await.unwrap();
    let receiver = Receiver::remembering(Memory::Deliveries).await.unwrap();
    let mut cluster = Cluster::new(ClusterOptions {
        program: env!("CARGO_BIN_EXE_dapper").into(),
        pipeline: PIPELINE.into(),
        environment: vec![("DATABASE_URL".into(), database.url()), ("RECEIVER_URL".into(), receiver.url())],
    })
    .unwrap();
    for _ in 0..2 {
        cluster.start_replica().unwrap();
    }
    let mut leader = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    covered(&database).await;

    let options = WorkloadOptions { writers: 8, limit: Some(CHANGES), ..WorkloadOptions::default() };
    let workload = Workload::start(&database.url(), options).await.unwrap();
    for kill in 1..=KILLS {
        let received = usize::try_from(CHANGES * kill / (KILLS + 1)).unwrap();
        receiver.wait_for(received, LIMIT * 2).await.unwrap();
        cluster.replicas()[leader.replica].kill_9().unwrap();
        cluster.start_replica().unwrap();
        leader = cluster.wait_for_leader(leader.token, LIMIT).await.unwrap();
    }
    let writes = workload.finish().await;
    let mut progressed = (0, Instant::now());
    loop {
        let report = check(&writes, &receiver.deliveries());
        if report.lost == 0 || progressed.1.elapsed() > Duration::from_secs(20) {
            break;
        }
        if receiver.count() > progressed.0 {
            progressed = (receiver.count(), Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Time for events that should not come.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = check(&writes, &receiver.deliveries());
    eprintln!("{report:#?}");
    assert!(report.committed >= usize::try_from(CHANGES).unwrap());
    assert!(report.is_clean(), "{report:#?}");
    assert!(report.repeats_marked > 0, "the holder was never killed in the middle of anything");
}

/// Waits until every table has its triggers; a change made before that is nobody's.
async fn covered(database: &Database) {
    let client = database.connect().await.unwrap();
    let started = Instant::now();
    loop {
        let row = client
            .query_one(
                "SELECT count(*) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
                    AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) < 3",
                &[],
            )
            .await
            .unwrap();
        if row.get::<_, i64>(0) == 0 {
            return;
        }
        assert!(started.elapsed() < LIMIT, "tables without triggers are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
