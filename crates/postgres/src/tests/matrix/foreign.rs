//! Partitions that are foreign tables.

use dapper_testkit::Database;
use tokio_postgres::config::Host;

use super::stage::{Stage, server};

/// Makes `sums` with a local partition and one that is a foreign table, on the database itself.
async fn foreign_partition(database: &Database) {
    let config: tokio_postgres::Config = database.url().parse().unwrap();
    let Host::Tcp(host) = &config.get_hosts()[0] else { panic!("no TCP") };
    let (port, user) = (config.get_ports()[0], config.get_user().unwrap());
    let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '{port}', dbname '{}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER loopback OPTIONS (user '{user}', password '{password}');
             CREATE SCHEMA far; CREATE TABLE far.away (id int, v int, r int);
             CREATE TABLE sums (id int, v int, r int) PARTITION BY RANGE (id);
             CREATE TABLE sums_near PARTITION OF sums FOR VALUES FROM (0) TO (100);
             CREATE FOREIGN TABLE sums_far PARTITION OF sums FOR VALUES FROM (100) TO (200)
                 SERVER loopback OPTIONS (schema_name 'far', table_name 'away')",
            database.name()
        ))
        .await
        .unwrap();
}

/// PostgreSQL lets a statement fail that would have to report what changed in a foreign table. So there are no triggers
/// that ask it to, and whoever runs the input is told.
#[tokio::test]
async fn a_table_with_a_foreign_partition_is_refused_and_no_statement_fails() {
    let mut stage = Stage::on(server().await, "", |_| {}).await;
    stage.keys.insert("sums".to_owned(), vec!["id".to_owned()]);
    foreign_partition(&stage.fixture.database).await;
    foreign_partition(&stage.plain).await;
    let coverage = stage.fixture.reconcile().await;
    assert_eq!(coverage.covered, 1, "{coverage:?}");
    let told: Vec<String> = {
        let again = stage.fixture.reconcile().await;
        assert!(again.changed.is_empty(), "{again:?}");
        again
            .failed
            .iter()
            .map(|error| format!("{error}: {}", std::error::Error::source(error).unwrap()))
            .collect()
    };
    assert!(
        told.len() == 1
            && told[0].starts_with("table public.sums is not covered: its part public.sums_far is a foreign"),
        "{told:?}"
    );
    for statement in [
        "INSERT INTO sums VALUES (1, 1, 1), (101, 1, 2)",
        "UPDATE sums SET v = 2",
        "UPDATE sums SET v = 2 WHERE id < 100",
        "DELETE FROM sums",
    ] {
        stage.step(0, &statement.into()).await.unwrap().unwrap();
    }
    assert!(stage.fixture.events().await.is_empty());
    stage.step(0, &"INSERT INTO sums_near VALUES (2, 2, 3)".into()).await.unwrap().unwrap();
    assert_eq!(stage.fixture.lines().await, ["sums create 2"]);
    // Without it, all is as with any other table.
    stage
        .execute("ALTER TABLE sums DETACH PARTITION sums_far; SELECT oracle.watch(); DELETE FROM oracle.log")
        .await;
    assert_eq!(stage.fixture.reconcile().await.covered, 2);
    stage.step(0, &"UPDATE sums SET v = 3".into()).await.unwrap().unwrap();
    let events = stage.verify("^public").await.unwrap();
    assert_eq!(events.len(), 1);
}
