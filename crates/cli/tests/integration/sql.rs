//! The `sql` process in a pipeline file: replicas whose holder is killed and frozen again and again, and the effects counted.

use std::time::{Duration, Instant};

use dapper_testkit::history::{Delivery, Report, Writes, check};
use dapper_testkit::{Cluster, ClusterOptions, Database, Leader, Workload, WorkloadOptions};
use tokio_postgres::Client;

use crate::support::{Dapper, Said};

const LIMIT: Duration = Duration::from_secs(60);
const CHANGES: u64 = 6_000;
const KILLS: u64 = 5;

/// Two consumers of the same events, which note each and count them: one with the inbox, and one without, by which the test
/// sees that there were repeats.
const PIPELINE: &str = r#"
[lock]
ttl = "2s"

[[inputs]]
name = "orders-input"
type = "postgres"
connection_string = "${DATABASE_URL}"

[[processes]]
name = "once"
type = "sql"
[processes.execution_context]
connection_string = "${EFFECTS_URL}"
statement = """
WITH counted AS (UPDATE counters SET n = n + 1 WHERE location = :location)
INSERT INTO once (event) VALUES (:event)"""

[[processes]]
name = "naive"
type = "sql"
[processes.execution_context]
connection_string = "${EFFECTS_URL}"
statement = "INSERT INTO naive (event) VALUES (:event)"
inbox = "false"

[[links]]
input = "orders-input"
process = "once"

[[links]]
input = "orders-input"
process = "naive"
"#;

const TABLES: &str = "
    CREATE TABLE once (seq bigint GENERATED ALWAYS AS IDENTITY, event jsonb);
    CREATE TABLE naive (seq bigint GENERATED ALWAYS AS IDENTITY, event jsonb);
    CREATE TABLE counters (location text PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
    INSERT INTO counters VALUES ('orders'), ('customers'), ('order_lines'), ('counters')";

/// Replicas, the database whose changes they read, and the one that they write into.
struct Stage {
    source: Database,
    /// Keeps the database.
    _target: Database,
    effects: Client,
    cluster: Cluster,
    leader: Leader,
}

impl Stage {
    async fn set() -> Self {
        let (source, target) = (Database::create().await.unwrap(), Database::create().await.unwrap());
        Workload::create_tables(&source.url()).await.unwrap();
        let effects = target.connect().await.unwrap();
        effects.batch_execute(TABLES).await.unwrap();
        let mut cluster = Cluster::new(ClusterOptions {
            program: env!("CARGO_BIN_EXE_dapper").into(),
            pipeline: PIPELINE.into(),
            environment: vec![("DATABASE_URL".into(), source.url()), ("EFFECTS_URL".into(), target.url())],
            ..Default::default()
        })
        .unwrap();
        for _ in 0..2 {
            cluster.start_replica().unwrap();
        }
        let leader = cluster.wait_for_leader(0, LIMIT).await.unwrap();
        let stage = Self { source, _target: target, effects, cluster, leader };
        stage.covered().await;
        stage
    }

    /// Waits until every table has its triggers; a change made before that is nobody's.
    async fn covered(&self) {
        let client = self.source.connect().await.unwrap();
        let uncovered =
            "SELECT count(*) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
                AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) < 3";
        let started = Instant::now();
        while client.query_one(uncovered, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            assert!(started.elapsed() < LIMIT, "tables without triggers are left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn write(&self, changes: u64) -> Workload {
        let options = WorkloadOptions { writers: 4, limit: Some(changes), ..WorkloadOptions::default() };
        Workload::start(&self.source.url(), options).await.unwrap()
    }

    async fn number(&self, query: &str) -> u64 {
        let number: i64 = self.effects.query_one(query, &[]).await.unwrap().get(0);
        number.unsigned_abs()
    }

    /// Waits until so many effects are there.
    async fn reached(&self, effects: u64) {
        let started = Instant::now();
        while self.number("SELECT count(*) FROM once").await < effects {
            assert!(started.elapsed() < LIMIT * 2, "fewer than {effects} effects");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the consumer did, compared with what was written; once all is there, and nothing more comes.
    async fn report(&self, consumer: &str, writes: &Writes) -> Report {
        let started = Instant::now();
        let mut report = self.compare(consumer, writes).await;
        while report.lost > 0 && started.elapsed() < LIMIT {
            tokio::time::sleep(Duration::from_millis(200)).await;
            report = self.compare(consumer, writes).await;
        }
        // Time for effects that should not come.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = self.compare(consumer, writes).await;
        eprintln!("{consumer}: {report:#?}");
        report
    }

    async fn compare(&self, consumer: &str, writes: &Writes) -> Report {
        let query = format!("SELECT event::text FROM {consumer} ORDER BY seq");
        let rows = self.effects.query(&query, &[]).await.unwrap();
        let events = rows.iter().map(|row| {
            let event = serde_json::from_str(row.get(0)).unwrap();
            Delivery::from_event(&event, Instant::now())
        });
        check(writes, &events.collect::<Vec<_>>())
    }

    /// Each change took effect once, and in order.
    async fn judge(&self, workload: Workload) {
        let writes = workload.finish().await;
        let report = self.report("once", &writes).await;
        assert!(report.is_clean(), "{report:#?}");
        assert_eq!((report.repeats_marked, report.deliveries), (0, report.committed), "{report:#?}");
        let counted = self.number("SELECT sum(n)::bigint FROM counters").await;
        assert_eq!(counted, u64::try_from(report.committed).unwrap());
    }
}

/// A database with the table that the pipeline's statements need.
async fn checked(statement: &str, arguments: &[&str]) -> (Database, Said) {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    let pipeline = PIPELINE.replace("INSERT INTO naive (event) VALUES (:event)", statement);
    let said = Dapper::new(&pipeline, arguments)
        .env("DATABASE_URL", &database.url())
        .env("EFFECTS_URL", &database.url())
        .run();
    (database, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_mistakes_in_a_statement_and_names_the_line() {
    let check = ["check", "pipeline.toml"];
    let (_database, said) = checked("SELECT :id", &check).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.out.contains("reached  process \"once\": PostgreSQL at "), "{}", said.out);
    assert!(said.out.contains("the inbox is not installed yet"), "{}", said.out);
    for (statement, arguments, expected) in [
        ("SELECT :ids", &["check", "--offline", "pipeline.toml"][..], "did you mean :id?"),
        ("SELECT FROM nothing", &check[..], "relation \"nothing\" does not exist"),
        ("SELCT 1", &check[..], "syntax error at or near \"SELCT\""),
    ] {
        let (_database, said) = checked(statement, arguments).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("pipeline.toml:24: process \"naive\": "), "{}", said.err);
        assert!(said.err.contains(expected), "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn install_makes_the_inbox_and_a_dry_run_prints_it() {
    let (database, script) = checked("SELECT :id", &["install", "--dry-run", "pipeline.toml"]).await;
    assert_eq!((script.code, script.err.as_str()), (Some(0), ""), "{script:?}");
    let client = database.connect().await.unwrap();
    let there = "SELECT to_regprocedure('dapper_inbox.accept(text, text, bigint, text)') IS NOT NULL";
    assert!(!client.query_one(there, &[]).await.unwrap().get::<_, bool>(0));
    client.batch_execute(&script.out).await.unwrap();
    assert!(client.query_one(there, &[]).await.unwrap().get::<_, bool>(0));

    let (database, said) = checked("SELECT :id", &["install", "pipeline.toml"]).await;
    assert!(said.out.ends_with("\nonce: inbox in schema dapper_inbox is in place\n"), "{said:?}");
    let client = database.connect().await.unwrap();
    assert!(client.query_one(there, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_takes_effect_once_while_the_holder_is_killed_five_times() {
    let mut stage = Stage::set().await;
    let workload = stage.write(CHANGES).await;
    for kill in 1..=KILLS {
        stage.reached(CHANGES * kill / (KILLS + 1)).await;
        stage.cluster.replicas()[stage.leader.replica].kill_9().unwrap();
        stage.cluster.start_replica().unwrap();
        stage.leader = stage.cluster.wait_for_leader(stage.leader.token, LIMIT).await.unwrap();
    }
    stage.judge(workload).await;
    // There was something to tell apart: without the inbox, effects came twice.
    let distinct = stage.number("SELECT count(DISTINCT event->>'event_id') FROM naive").await;
    let naive = stage.number("SELECT count(*) FROM naive").await;
    assert!(naive > distinct, "no event was repeated: the holder was never killed in the middle of anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_takes_effect_once_while_the_holder_is_frozen_and_thaws() {
    let mut stage = Stage::set().await;
    let workload = stage.write(4_000).await;
    for freeze in 1..=2 {
        stage.reached(freeze * 1_200).await;
        let frozen = stage.leader;
        stage.cluster.replicas()[frozen.replica].freeze().unwrap();
        stage.leader = stage.cluster.wait_for_leader(frozen.token, LIMIT).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.cluster.replicas()[frozen.replica].thaw().unwrap();
    }
    stage.judge(workload).await;
}
