//! Installing: once, safely, and without a trace afterwards.

use std::sync::Arc;

use dapper_lock::MemoryStore;
use dapper_testkit::{Database, Server, ServerOptions};

use super::support::{Fixture, config, locks};
use crate::coverage::{self, Mode, Pauses};
use crate::layout::{self, Access};
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
            layout::install(&session, &options.names).await.unwrap();
            let round =
                coverage::reconcile(session.client(), &options, Mode::Install, &mut Pauses::default())
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
    assert_eq!((round.covered, round.changed), (2, Vec::new()));
}

#[tokio::test]
async fn a_table_in_use_is_given_up_soon_and_covered_later() {
    let fixture = Fixture::new("").await;
    fixture
        .execute("DROP EVENT TRIGGER dapper_orders_input_tables; CREATE TABLE a (id int PRIMARY KEY)")
        .await;
    let writer = fixture.database.connect().await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let round = fixture.reconcile().await;
    assert_eq!(round.covered, 0);
    assert!(matches!(&round.failed[..], [PostgresError::Table { table, .. }] if table == "public.a"));
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(fixture.reconcile().await.changed.len(), 1);
}

#[tokio::test]
async fn dropped_disabled_and_unwanted_triggers_are_put_right() {
    let mut fixture =
        Fixture::new("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    fixture.execute("DROP TRIGGER dapper_orders_input_insert ON a").await;
    fixture.execute("ALTER TABLE b DISABLE TRIGGER dapper_orders_input_delete").await;
    assert_eq!(fixture.reconcile().await.changed.len(), 2);
    fixture.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); DELETE FROM b").await;
    assert_eq!(fixture.lines().await, ["a create 1", "b create 2", "b delete 2"]);

    fixture.execute("DROP TABLE b").await;
    fixture.reconcile().await;
    let functions =
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture\\_%' AND prorettype = 'trigger'::regtype";
    assert_eq!(fixture.client.query_one(functions, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_trigger_that_was_renamed_does_not_capture_twice() {
    let mut fixture = Fixture::new("CREATE TABLE a (id int PRIMARY KEY)").await;
    fixture.execute("ALTER TRIGGER dapper_orders_input_insert ON a RENAME TO mine").await;
    let changed = fixture.reconcile().await.changed;
    assert_eq!(
        crate::coverage::describe(&changed[0].1),
        "trigger dapper_orders_input_insert is missing, trigger mine is no longer asked for"
    );
    fixture.execute("INSERT INTO a VALUES (1)").await;
    assert_eq!(fixture.lines().await, ["a create 1"]);
}

#[tokio::test]
async fn what_the_plan_says_is_all_there_is_to_do() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE \"b ; c\" (id timestamptz PRIMARY KEY);
             CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        )
        .await
        .unwrap();
    let config = config("orders-input", database.url());
    let before = dump(&database).await;
    let plan = crate::plan_install(&config).await.unwrap();
    assert_eq!(dump(&database).await, before);
    let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(
        steps,
        [
            "schema dapper_orders_input",
            "event trigger for new tables",
            "table public.a",
            "table public.b ; c",
            "table public.p",
            "table public.p1"
        ]
    );
    client.batch_execute(&plan.to_string()).await.unwrap();
    assert_eq!(crate::plan_install(&config).await.unwrap(), crate::InstallPlan::default());
    let installed = dump(&database).await;
    let report = crate::install(&config).await.unwrap();
    assert!(!report.schema_changed && report.changed.is_empty() && report.covered == 4, "{report:?}");
    assert_eq!(dump(&database).await, installed);
}

#[tokio::test]
async fn an_older_layout_is_brought_up_to_date_and_nothing_unread_is_lost() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE a (id int PRIMARY KEY)").await.unwrap();
    let old = format!(
        "{}; COMMENT ON SCHEMA dapper_orders_input IS 'dapper input orders_input, layout 1';
         INSERT INTO dapper_orders_input.change_sets_1 (changes, payload)
         VALUES (1, '{{\"tbl\":\"a\",\"op\":\"INSERT\",\"key\":[\"id\"],\"ids\":[7]}}')",
        include_str!("layout_1.sql")
    );
    client.batch_execute(&old).await.unwrap();
    let mut config = config("orders-input", database.url());
    config.options.insert("install".into(), "never".into());
    let session = Session::open(&Options::parse(&config).unwrap().connection, "test").await.unwrap();
    let refused = layout::ensure(&session, &Options::parse(&config).unwrap()).await;
    assert!(matches!(refused, Err(PostgresError::NotInstalled { .. })), "{refused:?}");
    let mut fixture = Fixture::install(database, client, &config).await;
    let access = layout::ensure(&session, &fixture.options).await.unwrap();
    assert!(matches!(&access, Access::ReadOnly(reason) if reason.contains("never")), "{access:?}");
    fixture.execute("INSERT INTO a VALUES (8)").await;
    assert_eq!(fixture.lines().await, ["a create 7", "a create 8"]);
}

/// Layout 3 had no function for values of types that are not the server's own.
#[tokio::test]
async fn functions_of_layout_3_are_made_anew_and_its_versions_may_go_on_reading() {
    let mut fixture = Fixture::new("CREATE TYPE mood AS ENUM ('good'); CREATE TABLE a (id mood)").await;
    fixture
        .execute(
            "DROP FUNCTION dapper_orders_input.value_to_json;
             COMMENT ON SCHEMA dapper_orders_input IS 'dapper input orders_input, usable from layout 2, layout 3'",
        )
        .await;
    assert_eq!(layout::ensure(&fixture.session, &fixture.options).await.unwrap(), Access::Full);
    let found = layout::find(&fixture.client, "dapper_orders_input").await.unwrap();
    assert_eq!(format!("{found:?}"), "Some(Found { layout: 4, usable_from: 2 })");
    fixture.execute("INSERT INTO a VALUES ('good')").await;
    assert_eq!(fixture.lines().await, ["a create good"]);
}

#[tokio::test]
async fn a_replica_that_may_not_install_says_what_is_missing_and_touches_nothing() {
    let fixture = Fixture::new("CREATE TABLE a (id int PRIMARY KEY)").await;
    fixture
        .execute(
            "DROP EVENT TRIGGER dapper_orders_input_tables; CREATE TABLE later (id int PRIMARY KEY);
             ALTER TABLE a DISABLE TRIGGER dapper_orders_input_insert",
        )
        .await;
    let before = dump(&fixture.database).await;
    let mode = Mode::Report("it may not");
    let mut pauses = Pauses::default();
    let round = coverage::reconcile(fixture.session.client(), &fixture.options, mode, &mut pauses);
    let failed: Vec<String> = round.await.unwrap().failed.iter().map(chain).collect();
    assert_eq!(
        failed,
        [
            "table public.a is not covered: trigger dapper_orders_input_insert is disabled, and it may not; run `dapper install`",
            "table public.later is not covered: it has no triggers, and it may not; run `dapper install`",
        ]
    );
    assert_eq!(dump(&fixture.database).await, before);
}

/// The database's schema as `pg_dump` writes it.
async fn dump(database: &Database) -> String {
    let bin = database.server().bin().expect("a server with programs").to_owned();
    let url = database.url();
    tokio::task::spawn_blocking(move || {
        let output = std::process::Command::new(bin.join("pg_dump"))
            .args(["--schema-only", "--dbname", &url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        // Newer versions put a random word around the rest.
        text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
    })
    .await
    .unwrap()
}

fn chain(error: &PostgresError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstalling_under_load_leaves_the_schema_as_it_was() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    let tables: String =
        (0..8).map(|n| format!("CREATE TABLE t{n} (id bigserial PRIMARY KEY, v int);")).collect();
    client.batch_execute(&tables).await.unwrap();
    let before = dump(&database).await;
    let config = config("orders-input", database.url());
    crate::install(&config).await.unwrap();
    let stop = dapper_core::CancellationToken::new();
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (client, stop) = (database.connect().await.unwrap(), stop.clone());
        writers.push(tokio::spawn(async move {
            let mut written = 0;
            while !stop.is_cancelled() {
                let n = (writer + written) % 8;
                let sql = format!(
                    "BEGIN; INSERT INTO t{n} (v) VALUES (1), (2); UPDATE t{n} SET v = v + 1; DELETE FROM t{n}; COMMIT"
                );
                client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}"));
                written += 1;
            }
            written
        }));
    }
    let captured = "SELECT count(*) > 100 FROM dapper_orders_input.change_sets";
    super::support::wait_until(&client, captured).await;
    let report = crate::uninstall(&config).await.unwrap();
    assert_eq!(report.tables.len(), 8);
    stop.cancel();
    for writer in writers {
        assert!(writer.await.unwrap() > 10);
    }
    assert_eq!(dump(&database).await, before);
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
    let sql = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'dapper orders_input%' AND datname = current_database()";
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
    let refused = layout::ensure(&fixture.session, &fixture.options).await;
    assert!(matches!(refused, Err(PostgresError::NewerLayout { found: 99, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_newer_layout_that_allows_it_is_used_and_not_changed() {
    let fixture = Fixture::new("").await;
    let comment =
        "COMMENT ON SCHEMA dapper_orders_input IS 'dapper input x, usable from layout 2, layout 99'";
    fixture.execute(comment).await;
    let access = layout::ensure(&fixture.session, &fixture.options).await.unwrap();
    assert!(matches!(&access, Access::ReadOnly(reason) if reason.contains("layout 99")), "{access:?}");
    let config = config("orders-input", fixture.database.url());
    let refused = crate::install(&config).await;
    assert!(matches!(refused, Err(PostgresError::NewerLayout { found: 99, .. })), "{refused:?}");
    let refused = crate::plan_install(&config).await;
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
