//! Whatever is done to tables while they are under capture: no statement fails, and capture goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dapper_lock::MemoryStore;
use dapper_testkit::{Database, Server, ServerOptions, connect};

use crate::doctor::server::refuses_to_attach;

use super::support::{Fixture, Replica, config, locks, wait_until_covered};

#[tokio::test]
async fn what_is_written_in_the_transaction_that_makes_a_table_is_captured() {
    let mut fixture = Fixture::with("CREATE SCHEMA audit; CREATE SCHEMA \"We'ird\"", |config| {
        let list = |texts: &[&str]| texts.iter().map(|text| serde_json::Value::from(*text)).collect();
        config.options.insert("tables".into(), list(&["public.*", "We'ird.a*b_"]));
        config.options.insert("exclude".into(), list(&["public.t_p", "public.100%"]));
    })
    .await;
    fixture
        .execute(
            "BEGIN;
             CREATE TABLE a (name text PRIMARY KEY); INSERT INTO a VALUES ('x'), ('y');
             CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             INSERT INTO p VALUES (1, '2026-02-03'); UPDATE p_1 SET id = 2;
             CREATE TABLE \"We'ird\".\"axb_\" (id int PRIMARY KEY); INSERT INTO \"We'ird\".\"axb_\" VALUES (1);
             CREATE TABLE \"We'ird\".\"axbc\" (id int PRIMARY KEY); INSERT INTO \"We'ird\".\"axbc\" VALUES (1);
             CREATE TABLE audit.a (id int PRIMARY KEY); INSERT INTO audit.a VALUES (1);
             CREATE TABLE t_p (id int PRIMARY KEY); INSERT INTO t_p VALUES (1);
             CREATE TABLE t2p (id int PRIMARY KEY); INSERT INTO t2p VALUES (1);
             CREATE TABLE \"100%\" (id int PRIMARY KEY); INSERT INTO \"100%\" VALUES (1);
             CREATE TEMP TABLE a_temporary (id int PRIMARY KEY); INSERT INTO a_temporary VALUES (1);
             SELECT 7 AS id INTO s; INSERT INTO s VALUES (8);
             COMMIT",
        )
        .await;
    let lines = fixture.lines().await;
    assert_eq!(
        lines,
        [
            "a create x",
            "a create y",
            "p create [1,\"2026-02-03\"]",
            "p delete [1,\"2026-02-03\"]",
            "p create [2,\"2026-02-03\"]",
            "t2p create 1",
            "s create 8",
        ]
    );
    // The one whose name the event trigger leaves to the comparison is found by that.
    let changed: Vec<String> =
        fixture.reconcile().await.changed.into_iter().map(|(table, _)| table).collect();
    assert_eq!(changed, ["public.a", "public.p", "public.p_1", "We'ird.axb_", "public.t2p", "public.s"]);
    fixture.execute("UPDATE a SET name = name; INSERT INTO \"We'ird\".\"axb_\" VALUES (2)").await;
    assert_eq!(fixture.lines().await, ["a update x", "a update y", "We'ird.axb_ create 2"]);
    assert!(fixture.reconcile().await.changed.is_empty());
}

#[tokio::test]
async fn the_event_trigger_fails_nobodys_statement() {
    let fixture = Fixture::new("").await;
    fixture.execute("ALTER SCHEMA dapper_orders_input RENAME TO elsewhere").await;
    fixture.execute("CREATE TABLE a (id int PRIMARY KEY)").await;
    fixture.execute("ALTER SCHEMA elsewhere RENAME TO dapper_orders_input").await;
    let covered = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'a'::regclass";
    assert_eq!(fixture.client.query_one(covered, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(fixture.reconcile().await.changed.len(), 1);
}

#[tokio::test]
async fn an_event_trigger_that_is_gone_or_disabled_is_put_back() {
    let fixture = Fixture::new("").await;
    for harm in [
        "DROP EVENT TRIGGER dapper_orders_input_tables",
        "ALTER EVENT TRIGGER dapper_orders_input_tables DISABLE",
    ] {
        fixture.execute(harm).await;
        fixture.reconcile().await;
        let there = "SELECT count(*) FROM pg_event_trigger WHERE evtenabled = 'O'";
        assert_eq!(fixture.client.query_one(there, &[]).await.unwrap().get::<_, i64>(0), 1, "{harm}");
    }
}

/// Between each change and its repair statements run, and none of them may fail.
#[tokio::test]
async fn no_statement_fails_between_a_change_and_its_repair() {
    let mut fixture = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, other text NOT NULL DEFAULT 'o');
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE q (id int PRIMARY KEY);
         CREATE SCHEMA away",
    )
    .await;
    let steps: [(&str, &str, &[&str], &[&str]); 9] = [
        (
            "ALTER TABLE t RENAME COLUMN id TO number",
            "INSERT INTO t VALUES (1)",
            &["t create 1"],
            &["t create 1"],
        ),
        (
            "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (other, number)",
            "INSERT INTO t VALUES (2)",
            // Captured with the key of before.
            &["t create 2"],
            &["t create [\"o\",2]"],
        ),
        ("ALTER TABLE t DROP COLUMN other", "INSERT INTO t VALUES (3)", &["t create "], &["t create "]),
        (
            "ALTER TABLE t ADD PRIMARY KEY (number)",
            "INSERT INTO t VALUES (4)",
            &["t create "],
            &["t create 4"],
        ),
        ("ALTER TABLE t RENAME TO u", "INSERT INTO u VALUES (5)", &["t create 5"], &["u create 5"]),
        (
            "DROP TABLE u; CREATE TABLE u (id text PRIMARY KEY)",
            "INSERT INTO u VALUES ('6')",
            &["u create 6"],
            &["u create 6"],
        ),
        (
            "ALTER TABLE p ATTACH PARTITION q FOR VALUES FROM (0) TO (100)",
            "INSERT INTO p VALUES (7)",
            &["p create 7"],
            &["p create 7"],
        ),
        ("ALTER TABLE p DETACH PARTITION q", "INSERT INTO q VALUES (8)", &["p create 8"], &["q create 8"]),
        ("ALTER TABLE u SET SCHEMA away", "INSERT INTO away.u VALUES ('9')", &["u create 9"], &[]),
    ];
    // See the section on server versions in docs/capture.md.
    let refuses_to_attach = refuses_to_attach(&fixture.client).await.unwrap();
    for (change, statement, between, after) in steps {
        if refuses_to_attach && change.contains("TACH PARTITION") {
            let refused = fixture.client.batch_execute(change).await.unwrap_err();
            let names_us = format!("{refused:?}").contains("trigger \\\"dapper_orders_input_");
            assert!(names_us || change.contains("DETACH"), "{refused:?}");
            continue;
        }
        fixture.execute(change).await;
        fixture.execute(statement).await;
        assert_eq!(fixture.lines().await, between, "between {change} and its repair");
        let round = fixture.reconcile().await;
        assert!(round.failed.is_empty(), "{change}: {:?}", round.failed);
        let table = statement.split_whitespace().nth(2).unwrap();
        fixture.execute(&format!("DELETE FROM {table}; {statement}")).await;
        let lines: Vec<String> =
            fixture.lines().await.into_iter().filter(|line| !line.contains(" delete ")).collect();
        assert_eq!(lines, after, "after {change} and its repair");
        assert!(fixture.reconcile().await.changed.is_empty(), "{change}");
    }
}

/// What is done to triggers and functions by hand is repaired; until then it is obeyed, and no statement fails.
#[tokio::test]
async fn what_is_done_to_triggers_by_hand_is_repaired() {
    let mut fixture = Fixture::new(
        "CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)",
    )
    .await;
    let function: String = fixture
        .client
        .query_one("SELECT 'dapper_orders_input.capture_' || 't'::regclass::oid || '()'", &[])
        .await
        .unwrap()
        .get(0);
    let insert = "dapper_orders_input_insert";
    let harms = [
        (format!("ALTER TABLE t DISABLE TRIGGER {insert}"), 0),
        ("ALTER TABLE t DISABLE TRIGGER ALL".to_owned(), 0),
        (format!("ALTER TABLE t ENABLE REPLICA TRIGGER {insert}"), 0),
        (format!("DROP TRIGGER {insert} ON t"), 0),
        (format!("DROP FUNCTION {function} CASCADE"), 0),
        // Still fires, and must not fire twice when its name is put right.
        (format!("ALTER TRIGGER {insert} ON t RENAME TO aaa"), 1),
        (
            format!(
                "CREATE OR REPLACE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
            ),
            0,
        ),
        (
            format!(
                "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                 DROP TRIGGER {insert} ON t;
                 CREATE TRIGGER {insert} AFTER INSERT ON t EXECUTE FUNCTION nothing()"
            ),
            0,
        ),
        (format!("ALTER FUNCTION {function} RESET ALL; ALTER FUNCTION {function} SET work_mem = '1MB'"), 1),
    ];
    for (n, (harm, between)) in harms.iter().enumerate() {
        let (first, second) = (2 * n, 2 * n + 1);
        fixture.execute(harm).await;
        fixture.execute(&format!("INSERT INTO t VALUES ({first})")).await;
        assert_eq!(fixture.lines().await.len(), *between, "between {harm} and its repair");
        let round = fixture.reconcile().await;
        assert!(round.failed.is_empty() && round.changed.len() == 1, "{harm}: {round:?}");
        fixture.execute(&format!("INSERT INTO t VALUES ({second})")).await;
        assert_eq!(fixture.lines().await, [format!("t create {second}")], "after {harm} and its repair");
        assert!(fixture.reconcile().await.changed.is_empty(), "{harm}");
    }
    // A trigger that somebody made fire always does so for replicated changes, too, and stays that way.
    fixture.execute(&format!("ALTER TABLE t ENABLE ALWAYS TRIGGER {insert}")).await;
    assert!(fixture.reconcile().await.changed.is_empty());
    fixture.execute("SET session_replication_role = replica; INSERT INTO t VALUES (100); RESET session_replication_role").await;
    assert_eq!(fixture.lines().await, ["t create 100"]);
}

/// A renamed schema takes its tables along: by the old name until the comparison, then as the patterns say.
#[tokio::test]
async fn renamed_schemas_and_replica_identities_are_followed() {
    let mut fixture = Fixture::with(
        "CREATE SCHEMA shop; CREATE TABLE shop.t (id int, a int NOT NULL UNIQUE, b int NOT NULL UNIQUE)",
        |config| _ = config.options.insert("tables".into(), serde_json::json!(["shop.*", "store.*"])),
    )
    .await;
    let steps = [
        ("ALTER SCHEMA shop RENAME TO store", "store.t", "shop.t create 1", "store.t create 11"),
        (
            "ALTER TABLE store.t REPLICA IDENTITY USING INDEX t_b_key",
            "store.t",
            "store.t create 2",
            "store.t create 112",
        ),
        ("ALTER TABLE store.t ADD PRIMARY KEY (id)", "store.t", "store.t create 103", "store.t create 13"),
        ("ALTER TABLE store.t DROP CONSTRAINT t_pkey", "store.t", "store.t create 4", "store.t create 114"),
        ("ALTER TABLE store.t DROP COLUMN b", "store.t", "store.t create 5", "store.t create 15"),
        ("ALTER TABLE store.t DROP COLUMN a", "store.t", "store.t create 6", "store.t create 16"),
        (
            "ALTER TABLE store.t DROP COLUMN id; ALTER TABLE store.t ADD v int",
            "store.t",
            "store.t create ",
            "store.t create ",
        ),
    ];
    for (n, (change, table, between, after)) in steps.into_iter().enumerate() {
        fixture.execute(change).await;
        let row = |n: usize| match n % 10 {
            0..=4 => format!("INSERT INTO {table} (id, a, b) VALUES ({n}, {n}, {n} + 100)"),
            5 => format!("INSERT INTO {table} (id, a) VALUES ({n}, {n})"),
            6 => format!("INSERT INTO {table} (id) VALUES ({n})"),
            _ => format!("INSERT INTO {table} (v) VALUES ({n})"),
        };
        fixture.execute(&row(n + 1)).await;
        assert_eq!(fixture.lines().await, [between], "between {change} and its repair");
        let round = fixture.reconcile().await;
        assert!(round.failed.is_empty() && round.changed.len() == 1, "{change}: {round:?}");
        fixture.execute(&row(n + 11)).await;
        assert_eq!(fixture.lines().await, [after], "after {change} and its repair");
        assert!(fixture.reconcile().await.changed.is_empty(), "{change}");
    }
}

/// A role that is no superuser has the comparison alone: every two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_event_trigger_a_new_table_is_covered_within_seconds() {
    let server =
        tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default()).unwrap()).await.unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let superuser = database.connect().await.unwrap();
    let name = database.name();
    superuser
        .batch_execute(&format!(
            "CREATE ROLE owner LOGIN PASSWORD 'secret'; GRANT CREATE ON DATABASE {name} TO owner;
             GRANT CREATE ON SCHEMA public TO owner"
        ))
        .await
        .unwrap();
    let url = database.url_as("owner", "secret");
    let client = connect(&url).await.unwrap();
    client.batch_execute("CREATE TABLE first (id int PRIMARY KEY)").await.unwrap();
    let replica = Replica::start(config("i", url), locks(&Arc::new(MemoryStore::new()))).await;
    wait_until_covered(&client, "first").await;
    let mut slowest = Duration::ZERO;
    for n in 0..3 {
        let table = format!("t{n}");
        client.batch_execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY)")).await.unwrap();
        let created = Instant::now();
        wait_until_covered(&client, &table).await;
        slowest = slowest.max(created.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    replica.stop().await;
}
