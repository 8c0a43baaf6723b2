//! What is installed, and that it goes again.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Dapper, LIMIT, Running, SMALL, Said, database};
use dapper_core::InputConfig;
use dapper_lock::{LeaseConfig, LockManager};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore, SchemaName};
use dapper_postgres::{Names, PostgresInput};
use dapper_testkit::Database;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

/// How many schemas, tables, functions, triggers and comments there are.
async fn catalog(client: &Client) -> Vec<i64> {
    let sql = "SELECT (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_class),
                      (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_trigger),
                      (SELECT count(*) FROM pg_description)";
    let row = client.query_one(sql, &[]).await.unwrap();
    (0..row.len()).map(|column| row.get(column)).collect()
}

/// Waits until `orders` has that many triggers.
async fn covered(client: &Client, triggers: i64) {
    let started = Instant::now();
    let sql = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders'::regclass";
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != triggers {
        assert!(started.elapsed() < LIMIT, "there never were {triggers} triggers");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn exists(client: &Client, table: &str) -> bool {
    client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await.unwrap().get(0)
}

fn uninstall(pipeline: &str, database: &Database, lock: &Database) -> Said {
    let dapper = Dapper::new(pipeline, &["uninstall", "pipeline.toml"]);
    dapper.env("DATABASE_URL", &database.url()).env("LOCK_DATABASE_URL", &lock.url()).run()
}

async fn stop(replicas: Vec<Running>) {
    for replica in &replicas {
        replica.signal(Signal::SIGTERM);
    }
    for replica in replicas {
        assert_eq!(replica.exit_code().await, Some(0));
    }
}

/// `SMALL` with a second input, on the same database.
fn two_inputs() -> String {
    let second = SMALL.split_once("[[processes]]").unwrap().0.replace("orders-input", "second-input");
    format!("{SMALL}\n{second}[[links]]\ninput = \"second-input\"\nprocess = \"print\"\n")
}

#[tokio::test]
async fn checking_changes_nothing() {
    let (database, client) = database().await;
    let before = catalog(&client).await;
    let said = Dapper::new(SMALL, &["check", "pipeline.toml"]).env("DATABASE_URL", &database.url()).run();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("reached  input \"orders-input\": PostgreSQL "), "{}", said.out);
    assert_eq!(catalog(&client).await, before);
}

#[tokio::test]
async fn nothing_is_left_of_several_inputs_and_their_leases() {
    let (database, client) = database().await;
    let before = catalog(&client).await;
    let pipeline = two_inputs();
    let mut replicas: Vec<Running> = (0..3).map(|_| Running::start(&pipeline, &database)).collect();
    for replica in &mut replicas {
        replica.logged("standing by").await;
        replica.logged("standing by").await;
    }
    covered(&client, 6).await;
    for schema in ["dapper_orders_input", "dapper_second_input"] {
        let leases =
            format!("SELECT count(*) FROM {schema}.leases WHERE resource <> '' AND holder IS NOT NULL");
        assert_eq!(client.query_one(&leases, &[]).await.unwrap().get::<_, i64>(0), 1);
    }
    assert!(!exists(&client, "dapper_lock.leases").await);

    let refused = uninstall(&pipeline, &database, &database);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.err.contains("stop the replicas first"), "{}", refused.err);
    stop(replicas).await;

    let removed = uninstall(&pipeline, &database, &database);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let expected = "orders-input: removed the triggers of public.orders; dropped schema dapper_orders_input
second-input: removed the triggers of public.orders; dropped schema dapper_second_input
";
    assert_eq!(removed.out, expected);
    assert_eq!(catalog(&client).await, before);
    let again = uninstall(&pipeline, &database, &database);
    assert_eq!(again.out.matches("there was no schema").count(), 2, "{again:?}");
}

/// Were the leases with the first input, their tokens would start anew when another input comes first.
#[tokio::test]
async fn the_order_of_the_inputs_in_the_file_does_not_matter() {
    let (database, client) = database().await;
    let pipeline = two_inputs();
    let swapped = pipeline
        .replace("orders-input", "first-input")
        .replace("second-input", "orders-input")
        .replace("first-input", "second-input");
    for pipeline in [&pipeline, &pipeline, &swapped] {
        let mut replica = Running::start(pipeline, &database);
        replica.logged("lease acquired").await;
        replica.logged("lease acquired").await;
        covered(&client, 6).await;
        stop(vec![replica]).await;
    }
    for schema in ["dapper_orders_input", "dapper_second_input"] {
        let row = client.query_one(&format!("SELECT token FROM {schema}.cursors"), &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 3);
    }
}

#[tokio::test]
async fn leases_at_an_address_of_their_own_stay_and_that_is_said() {
    let ((database, client), (lock, lock_client)) = (database().await, database().await);
    let before = catalog(&client).await;
    let pipeline = format!("[lock]\nconnection_string = \"${{LOCK_DATABASE_URL}}\"\n{SMALL}");
    let url = lock.url();
    let replica = Running::start_with(&pipeline, &database, &[], &[("LOCK_DATABASE_URL", &url)]);
    covered(&client, 3).await;
    stop(vec![replica]).await;
    assert!(!exists(&client, "dapper_orders_input.leases").await);

    let removed = uninstall(&pipeline, &database, &lock);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let said = removed.out.lines().last().unwrap();
    assert!(
        said.starts_with("lock: table dapper_lock.leases stays, since other pipelines may share it"),
        "{said}"
    );
    assert_eq!(catalog(&client).await, before);
    assert!(exists(&lock_client, "dapper_lock.leases").await);
}

/// The schema belongs to whoever comes first, the input or its leases.
#[tokio::test(flavor = "multi_thread")]
async fn an_input_and_its_leases_are_installed_in_any_order_and_at_once() {
    for round in 0..4 {
        let (database, client) = database().await;
        let schema = SchemaName::new(Names::new("orders-input").schema).unwrap();
        let options = PostgresLockOptions { schema, ..PostgresLockOptions::default() };
        let store = || PostgresLockStore::new(database.url().parse().unwrap(), options.clone());
        let config = InputConfig {
            name: "orders-input".into(),
            connection_string: database.url().into(),
            ..InputConfig::default()
        };
        let ttl = LeaseConfig::from_ttl(Duration::from_secs(10)).unwrap();
        let locks = Arc::new(LockManager::new(Arc::new(store()), ttl));
        let leases_first = round == 0;
        if leases_first {
            store().install().await.unwrap();
        }
        let replicas: Vec<_> = (0..4)
            .map(|_| {
                let (store, input) = (store(), PostgresInput::new(config.clone(), Arc::clone(&locks)));
                (tokio::spawn(async move { store.install().await }), tokio::spawn(input))
            })
            .collect();
        for (store, input) in replicas {
            store.await.unwrap().unwrap();
            input.await.unwrap().unwrap();
        }
        for table in ["dapper_orders_input.cursors", "dapper_orders_input.leases"] {
            assert!(exists(&client, table).await, "{table}");
        }
    }
}
