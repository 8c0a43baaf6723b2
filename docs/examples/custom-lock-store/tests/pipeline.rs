//! Two replicas of this program, a real PostgreSQL, and a `kill -9`.

use std::time::{Duration, Instant};

use dapper_testkit::history::check;
use dapper_testkit::{Cluster, ClusterOptions, Database, Memory, Receiver, Workload, WorkloadOptions};

const LIMIT: Duration = Duration::from_secs(60);
const CHANGES: u64 = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_is_followed_and_nothing_is_lost() {
    let leases = tempfile::tempdir().unwrap();
    let database = Database::create().await.unwrap();
    Workload::create_tables(&database.url()).await.unwrap();
    let receiver = Receiver::remembering(Memory::Deliveries).await.unwrap();
    let mut cluster = Cluster::new(ClusterOptions {
        program: env!("CARGO_BIN_EXE_custom-lock-store").into(),
        pipeline: include_str!("../pipeline.toml").to_owned(),
        environment: vec![
            ("DATABASE_URL".into(), database.url()),
            ("RECEIVER_URL".into(), receiver.url()),
            ("LEASES".into(), leases.path().display().to_string()),
        ],
        ..ClusterOptions::default()
    })
    .unwrap();
    for _ in 0..2 {
        cluster.start_replica().unwrap();
    }
    let first = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    covered(&database).await;

    let options = WorkloadOptions { writers: 4, limit: Some(CHANGES), ..WorkloadOptions::default() };
    let workload = Workload::start(&database.url(), options).await.unwrap();
    receiver.wait_for(usize::try_from(CHANGES / 4).unwrap(), LIMIT).await.unwrap();
    let killed = Instant::now();
    cluster.replicas()[first.replica].kill_9().unwrap();
    let second = cluster.wait_for_leader(first.token, LIMIT).await.unwrap();
    assert_ne!(first.replica, second.replica);
    // The file knows of no sessions: the time to live decides.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());

    let writes = workload.finish().await;
    let waited = Instant::now();
    while check(&writes, &receiver.deliveries()).lost > 0 && waited.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let report = check(&writes, &receiver.deliveries());
    assert!(report.is_clean(), "{report:#?}");
    assert!(report.committed >= usize::try_from(CHANGES).unwrap(), "{report:#?}");
}

/// Waits until every table has its triggers; a change made before that is nobody's.
async fn covered(database: &Database) {
    let client = database.connect().await.unwrap();
    let started = Instant::now();
    let missing =
        "SELECT count(*) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
        AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) < 3";
    while client.query_one(missing, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(started.elapsed() < LIMIT, "tables without triggers are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
