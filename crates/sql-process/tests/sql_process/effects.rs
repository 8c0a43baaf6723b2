//! Whether an event takes effect once.

use dapper_inbox::InboxError;
use dapper_sql_process::{SqlErrorKind, SqlProcessError};

use crate::support::{ADD, Stage, chain, event, fails, run};

#[tokio::test]
async fn with_the_inbox_a_repeat_changes_nothing() {
    let stage = Stage::set().await;
    let process = stage.process(ADD, &[]);
    for _ in 0..3 {
        run(&process, &event(1, 1)).await.unwrap();
    }
    // Nor through another replica, with a higher token; nor through one that has not connected yet.
    run(&stage.process(ADD, &[]), &event(1, 2)).await.unwrap();
    assert_eq!(stage.count().await, 1);
    // Another consumer is another matter.
    run(&stage.process(ADD, &[("consumer", "other")]), &event(1, 1)).await.unwrap();
    assert_eq!(stage.count().await, 2);
}

/// The negative control of every test that counts effects.
#[tokio::test]
async fn without_the_inbox_a_repeat_takes_effect_again() {
    let stage = Stage::set().await;
    let process = stage.process(ADD, &[("inbox", "false")]);
    for _ in 0..3 {
        run(&process, &event(1, 1)).await.unwrap();
    }
    assert_eq!(stage.count().await, 3);
}

#[tokio::test]
async fn a_statement_that_failed_is_not_remembered() {
    let stage = Stage::set().await;
    stage.client.batch_execute("ALTER TABLE counter ADD CHECK (n < 1)").await.unwrap();
    let process = stage.process(ADD, &[]);
    for _ in 0..2 {
        let said = fails(&process, &event(1, 1), SqlErrorKind::Permanent).await;
        assert!(said.contains("violates check constraint"), "{said}");
    }
    stage.client.batch_execute("ALTER TABLE counter DROP CONSTRAINT counter_n_check").await.unwrap();
    run(&process, &event(1, 1)).await.unwrap();
    assert_eq!(stage.count().await, 1);
}

/// A constraint that is checked at the commit fails there, and for sure.
#[tokio::test]
async fn a_commit_that_is_refused_is_not_remembered() {
    let stage = Stage::set().await;
    stage
        .client
        .batch_execute(
            "CREATE TABLE parent (id bigint PRIMARY KEY);
             CREATE TABLE child (id bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
        )
        .await
        .unwrap();
    let process = stage.process("INSERT INTO child VALUES (:id)", &[]);
    let error = run(&process, &event(7, 1)).await.unwrap_err();
    assert!(
        matches!(&error, SqlProcessError::Failed { task: "committing the transaction", .. }),
        "{error:?}"
    );
    stage.client.batch_execute("INSERT INTO parent VALUES (7)").await.unwrap();
    run(&process, &event(7, 1)).await.unwrap();
    run(&process, &event(7, 1)).await.unwrap();
    let rows = stage.client.query_one("SELECT count(*) FROM child", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_replaced_replica_is_refused() {
    let stage = Stage::set().await;
    let (old, new) = (stage.process(ADD, &[]), stage.process(ADD, &[]));
    run(&old, &event(1, 1)).await.unwrap();
    run(&new, &event(2, 2)).await.unwrap();
    let error = run(&old, &event(3, 1)).await.unwrap_err();
    assert!(
        matches!(&error, SqlProcessError::Inbox(InboxError::StaleToken { token: 1, seen: 2, .. })),
        "{error:?}"
    );
    assert_eq!(error.kind(), SqlErrorKind::Permanent);
    assert_eq!(stage.count().await, 2);
}

#[tokio::test]
async fn an_event_without_an_id_is_refused_and_handled_without_the_inbox() {
    let stage = Stage::set().await;
    let mut nameless = event(1, 1);
    nameless.event_id = None;
    let said = fails(&stage.process(ADD, &[]), &nameless, SqlErrorKind::Permanent).await;
    assert!(said.contains("event_id") && said.contains("inbox = \"false\""), "{said}");
    run(&stage.process(ADD, &[("inbox", "false")]), &nameless).await.unwrap();
    assert_eq!(stage.count().await, 1);
}

#[tokio::test]
async fn defaults_of_the_role_make_no_difference() {
    let stage = Stage::set().await;
    let database = stage.database.name();
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "standard_conforming_strings = off",
        "synchronous_commit = off",
    ] {
        stage.client.batch_execute(&format!("ALTER DATABASE {database} SET {setting}")).await.unwrap();
    }
    stage
        .client
        .batch_execute("SET default_transaction_read_only = off; CREATE TABLE log (t text, s text)")
        .await
        .unwrap();
    // The inbox is there already: with these defaults its owner would have to make it by hand.
    let mut owner = stage.database.connect().await.unwrap();
    let inbox = dapper_inbox::Inbox::new(dapper_inbox::InboxOptions::default()).unwrap();
    inbox.install(&mut owner).await.unwrap();
    let process = stage.process(r"INSERT INTO log VALUES ('\', current_setting('synchronous_commit'))", &[]);
    run(&process, &event(1, 1)).await.unwrap();
    let row = stage.client.query_one("SELECT t, s FROM log", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("\\", "on"));
}

#[tokio::test]
async fn a_missing_right_is_said_with_what_to_do() {
    let stage = Stage::set().await;
    let role = format!("r{}", stage.database.name());
    stage.client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'canary'")).await.unwrap();
    let url = stage.database.url_as(&role, "canary");
    let config = stage.config(&url, "SELECT :id", &[]);
    let process = dapper_sql_process::SqlProcess::new(&config).unwrap();
    let error = run(&process, &event(1, 1)).await.unwrap_err();
    let said = format!("{} {error:?} {process:?}", chain(&error));
    stage.client.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
    assert!(said.contains("permission denied") && !said.contains("canary"), "{said}");
}
