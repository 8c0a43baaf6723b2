//! Installing: once, safely, and without a trace afterwards.

use std::sync::Arc;

use dapper_lock::MemoryStore;
use dapper_testkit::{Database, Server, ServerOptions};

use super::support::{Fixture, config, locks};
use crate::coverage;
use crate::layout;
use crate::options::Options;
use crate::session::Session;
use crate::{PostgresError, PostgresInput};

#[tokio::test]
async fn ten_replicas_install_at_once() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        .await
        .unwrap();
    let config = config("orders-input", database.url());
    let installs = (0..10).map(|_| {
        let options = Options::parse(&config).unwrap();
        async move {
            let session = Session::open(&options.connection, "test").await.unwrap();
            layout::ensure(&session, &options.names).await.unwrap();
            let round = coverage::reconcile(session.client(), &options, &mut coverage::Pauses::default())
                .await
                .unwrap();
            assert!(round.failed.is_empty(), "{:?}", round.failed);
        }
    });
    futures::future::join_all(installs).await;
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dapper%'";
    assert_eq!(client.query_one(triggers, &[]).await.unwrap().get::<_, i64>(0), 6);
}

#[tokio::test]
async fn nothing_is_done_when_nothing_differs() {
    let fixture =
        Fixture::new("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE t (at timestamptz PRIMARY KEY)")
            .await;
    let round = fixture.reconcile().await;
    assert_eq!((round.covered, round.changed), (2, 0));
}

#[tokio::test]
async fn a_table_in_use_is_given_up_soon_and_covered_later() {
    let fixture = Fixture::new("").await;
    fixture.execute("CREATE TABLE a (id int PRIMARY KEY)").await;
    let writer = fixture.database.connect().await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let round = fixture.reconcile().await;
    assert_eq!(round.covered, 0);
    assert!(matches!(&round.failed[..], [PostgresError::Table { table, .. }] if table == "public.a"));
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(fixture.reconcile().await.changed, 1);
}

#[tokio::test]
async fn dropped_disabled_and_unwanted_triggers_are_put_right() {
    let mut fixture =
        Fixture::new("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    fixture.execute("DROP TRIGGER dapper_orders_input_insert ON a").await;
    fixture.execute("ALTER TABLE b DISABLE TRIGGER dapper_orders_input_delete").await;
    assert_eq!(fixture.reconcile().await.changed, 2);
    fixture.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); DELETE FROM b").await;
    assert_eq!(fixture.lines().await, ["a create 1", "b create 2", "b delete 2"]);

    fixture.execute("DROP TABLE b").await;
    fixture.reconcile().await;
    let functions =
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture\\_%' AND prorettype = 'trigger'::regtype";
    assert_eq!(fixture.client.query_one(functions, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn uninstalling_leaves_no_trace() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE a (id int PRIMARY KEY)").await.unwrap();
    let catalog = "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_trigger),
                          (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_description)";
    let count = async |client: &tokio_postgres::Client| -> Vec<i64> {
        let row = client.query_one(catalog, &[]).await.unwrap();
        (0..row.len()).map(|column| row.get(column)).collect()
    };
    let before = count(&client).await;
    let config = config("orders-input", database.url());
    let fixture = Fixture::install(database, client, &config).await;
    assert_ne!(count(&fixture.client).await, before);

    let running =
        Session::open(&fixture.options.connection, &crate::input::application_name(&fixture.options))
            .await
            .unwrap();
    let refused = crate::uninstall(&config).await;
    assert!(matches!(refused, Err(PostgresError::Running { connections: 1 })), "{refused:?}");
    drop(running);
    let sql = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'dapper orders_input' AND datname = current_database()";
    super::support::wait_until(&fixture.client, sql).await;

    let report = crate::uninstall(&config).await.unwrap();
    assert_eq!(report.tables, ["public.a"]);
    assert_eq!(report.schema.as_deref(), Some("dapper_orders_input"));
    assert_eq!(count(&fixture.client).await, before);
    fixture.execute("INSERT INTO a VALUES (1)").await;
    assert_eq!(crate::uninstall(&config).await.unwrap(), crate::UninstallReport::default());
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    let fixture = Fixture::new("").await;
    fixture.execute("COMMENT ON SCHEMA dapper_orders_input IS 'dapper input orders_input, layout 99'").await;
    let refused = layout::ensure(&fixture.session, &fixture.options.names).await;
    assert!(matches!(refused, Err(PostgresError::NewerLayout { found: 99, .. })), "{refused:?}");
}

#[tokio::test]
async fn bad_addresses_and_rights_are_one_clear_error_each() {
    // A server of its own: it makes roles, and asks for passwords.
    let server =
        tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default()).unwrap()).await.unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE ROLE dapper_test_poor LOGIN PASSWORD 'canary-poor'").await.unwrap();
    let refused = async |url: String| {
        let store = Arc::new(MemoryStore::new());
        let error = PostgresInput::new(config("i", url), locks(&store)).await.unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        assert!(!text.contains("canary"), "{text}");
        text
    };
    let poor = refused(database.url_as("dapper_test_poor", "canary-poor")).await;
    assert!(poor.contains("\"dapper_test_poor\" may not create schema \"dapper_i\""), "{poor}");
    let wrong = refused(database.url_as("dapper_test_poor", "canary-wrong")).await;
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    let nobody = refused("postgresql://app:canary@127.0.0.1:1/shop".into()).await;
    assert!(
        nobody.contains("can't connect to PostgreSQL at 127.0.0.1:1, database \"shop\", user \"app\""),
        "{nobody}"
    );
}
