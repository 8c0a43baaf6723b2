//! Replicas as processes, whose holder is killed again and again under load.

use std::time::{Duration, Instant};

use dapper_testkit::history::{Operation, Report, check};
use dapper_testkit::{
    Cluster, ClusterOptions, Database, Leader, LogLine, Memory, Receiver, Reply, Workload, WorkloadOptions,
};

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

/// Replicas of the pipeline, a database with the workload's tables, and a receiver.
struct Stage {
    database: Database,
    receiver: Receiver,
    cluster: Cluster,
    leader: Leader,
}

impl Stage {
    /// Starts two replicas, and waits until one leads and every table is captured.
    async fn set(lock: &str) -> Self {
        let database = Database::create().await.unwrap();
        Workload::create_tables(&database.url()).await.unwrap();
        let receiver = Receiver::remembering(Memory::Deliveries).await.unwrap();
        let mut cluster = Cluster::new(ClusterOptions {
            program: env!("CARGO_BIN_EXE_dapper").into(),
            pipeline: format!("{lock}{PIPELINE}"),
            environment: vec![
                ("DATABASE_URL".into(), database.url()),
                ("RECEIVER_URL".into(), receiver.url()),
            ],
            ..Default::default()
        })
        .unwrap();
        for _ in 0..2 {
            cluster.start_replica().unwrap();
        }
        let leader = cluster.wait_for_leader(0, LIMIT).await.unwrap();
        covered(&database).await;
        Self { database, receiver, cluster, leader }
    }

    async fn write(&self, changes: u64) -> Workload {
        let options = WorkloadOptions { writers: 8, limit: Some(changes), ..WorkloadOptions::default() };
        Workload::start(&self.database.url(), options).await.unwrap()
    }

    /// What came of it, once all is received or nothing more comes.
    async fn report(self, workload: Workload) -> Report {
        let writes = workload.finish().await;
        let mut progressed = (0, Instant::now());
        while check(&writes, &self.receiver.deliveries()).lost > 0
            && progressed.1.elapsed() < Duration::from_secs(20)
        {
            if self.receiver.count() > progressed.0 {
                progressed = (self.receiver.count(), Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // Time for events that should not come.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = check(&writes, &self.receiver.deliveries());
        eprintln!("{report:#?}");
        report
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_repeated_unmarked_or_reordered_while_the_holder_is_killed_five_times() {
    let mut stage = Stage::set("").await;
    let workload = stage.write(CHANGES).await;
    for kill in 1..=KILLS {
        let received = usize::try_from(CHANGES * kill / (KILLS + 1)).unwrap();
        stage.receiver.wait_for(received, LIMIT * 2).await.unwrap();
        stage.cluster.replicas()[stage.leader.replica].kill_9().unwrap();
        stage.cluster.start_replica().unwrap();
        stage.leader = stage.cluster.wait_for_leader(stage.leader.token, LIMIT).await.unwrap();
    }
    let report = stage.report(workload).await;
    assert!(report.committed >= usize::try_from(CHANGES).unwrap());
    assert!(report.is_clean(), "{report:#?}");
    assert!(report.repeats_marked > 0, "the holder was never killed in the middle of anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_holder_is_replaced_and_does_no_harm_when_it_thaws() {
    let mut stage = Stage::set("[lock]\nttl = \"2s\"\n").await;
    let workload = stage.write(5_000).await;
    for freeze in 1..=2 {
        stage.receiver.wait_for(freeze * 1_500, LIMIT).await.unwrap();
        let frozen = stage.leader;
        stage.cluster.replicas()[frozen.replica].freeze().unwrap();
        stage.leader = stage.cluster.wait_for_leader(frozen.token, LIMIT).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.cluster.replicas()[frozen.replica].thaw().unwrap();
    }
    let report = stage.report(workload).await;
    assert_eq!((report.lost, report.phantom), (0, 0), "{report:#?}");
    // A call that was frozen after its last look at the lease and before its first byte still goes out when it thaws.
    // Its token tells: it is lower than one already seen.
    assert!(report.repeats_unmarked <= report.stale && report.stale <= 16, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_fails_holds_only_itself_says_so_and_comes_in_order_once_it_can() {
    let stage = Stage::set("").await;
    let client = stage.database.connect().await.unwrap();
    stage
        .receiver
        .reply_with(|request| Reply::status(if request.text("id") == Some("1") { 500 } else { 200 }));
    client
        .batch_execute("INSERT INTO orders VALUES (1); UPDATE orders SET n = 1 WHERE id = 1")
        .await
        .unwrap();
    for id in 2..=300 {
        client.batch_execute(&format!("INSERT INTO orders VALUES ({id})")).await.unwrap();
    }
    let handled = |receiver: &Receiver| -> Vec<(String, Operation)> {
        let deliveries = receiver.deliveries();
        deliveries.into_iter().map(|delivery| (delivery.key, delivery.operation)).collect()
    };
    let started = Instant::now();
    while handled(&stage.receiver).len() < 299 {
        assert!(started.elapsed() < LIMIT, "the other keys did not go on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(handled(&stage.receiver).iter().all(|(key, _)| key != "1"));
    let leader = &stage.cluster.replicas()[stage.leader.replica];
    let said = |line: &LogLine| format!("{line:?}").contains("500 Internal Server Error");
    leader.wait_for_line(LIMIT, said).await.unwrap();

    stage.receiver.reply(Reply::status(200));
    let started = Instant::now();
    while handled(&stage.receiver).len() < 301 {
        assert!(started.elapsed() < LIMIT, "the key that failed did not go on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let late = handled(&stage.receiver).split_off(299);
    assert_eq!(late, [("1".into(), Operation::Create), ("1".into(), Operation::Update)]);
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
