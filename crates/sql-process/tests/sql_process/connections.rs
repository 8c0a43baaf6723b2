//! Connections that break, calls that are dropped, and how many there are.

use std::sync::Arc;

use dapper_core::Process;
use dapper_sql_process::{SqlErrorKind, SqlProcess, SqlProcessError};
use dapper_testkit::{Faults, Flow, Proxy};
use tokio::time::timeout;

use crate::support::{ADD, LIMIT, Stage, event, fails, run};

const BLOCKED: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
    AND application_name = 'dapper count' AND wait_event_type = 'Lock')";
const IDLE: &str = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
    AND application_name = 'dapper count' AND state <> 'idle')";

#[tokio::test(flavor = "multi_thread")]
async fn many_events_at_once_share_a_few_connections() {
    let stage = Stage::set().await;
    let process = Arc::new(stage.process(ADD, &[]));
    let mut calls = Vec::new();
    for number in 0..100 {
        let process = Arc::clone(&process);
        calls.push(tokio::spawn(async move { run(&process, &event(number, 1)).await }));
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(stage.count().await, 100);
    assert!((1..=8).contains(&stage.sessions().await.len()));
    // One after the other, they use one that is there.
    let before = stage.sessions().await;
    for number in 100..120 {
        run(&process, &event(number, 1)).await.unwrap();
    }
    assert_eq!(stage.sessions().await, before);
}

#[tokio::test]
async fn a_call_that_is_dropped_in_the_middle_leaves_nothing_behind() {
    let stage = Stage::set().await;
    let process = Arc::new(stage.process(ADD, &[]));
    run(&process, &event(1, 1)).await.unwrap();
    let before = stage.sessions().await;
    stage.client.batch_execute("BEGIN; SELECT FROM counter FOR UPDATE").await.unwrap();
    let dropped = {
        let process = Arc::clone(&process);
        tokio::spawn(async move { process.run(&event(2, 1)).await.map(drop) })
    };
    stage.until(BLOCKED).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    stage.client.batch_execute("COMMIT").await.unwrap();
    stage.until(IDLE).await;
    // Its connection is not used again, and its event is new.
    run(&process, &event(2, 1)).await.unwrap();
    assert_eq!(stage.count().await, 2);
    let after = stage.sessions().await;
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
}

#[tokio::test]
async fn what_takes_too_long_is_given_up_and_rolled_back() {
    let stage = Stage::set().await;
    for limit in [("timeout", "300ms"), ("statement_timeout", "300ms")] {
        let process = stage.process(ADD, &[limit]);
        stage.client.batch_execute("BEGIN; SELECT FROM counter FOR UPDATE").await.unwrap();
        let said = fails(&process, &event(1, 1), SqlErrorKind::Transient).await;
        let expected = ["took longer than 300ms", "statement timeout"];
        assert!(expected.iter().any(|text| said.contains(text)), "{said}");
        stage.client.batch_execute("COMMIT").await.unwrap();
        stage.until(IDLE).await;
        assert_eq!(stage.count().await, 0);
    }
}

#[tokio::test]
async fn a_session_that_was_ended_is_replaced() {
    let stage = Stage::set().await;
    let process = stage.process(ADD, &[]);
    run(&process, &event(1, 1)).await.unwrap();
    for pid in stage.sessions().await {
        stage.client.query("SELECT pg_terminate_backend($1, 10000)", &[&pid]).await.unwrap();
    }
    // It may be noticed only by the next event, which then is tried again.
    let started = tokio::time::Instant::now();
    while let Err(error) = run(&process, &event(2, 1)).await {
        assert!(error.kind() == SqlErrorKind::Transient && started.elapsed() < LIMIT, "{error:?}");
    }
    assert_eq!(stage.count().await, 2);
}

/// The server hangs between statement and commit, as a frozen replica looks to it: it ends the transaction.
#[tokio::test]
async fn a_replica_that_froze_in_the_middle_does_not_hold_up_its_successor_for_ever() {
    let stage = Stage::set().await;
    let proxy = Proxy::start(stage.database.server().address()).await.unwrap();
    let url = stage.database.url_via(proxy.address());
    let config =
        stage.config(&url, "SELECT pg_sleep(0.5), :id", &[("timeout", "20s"), ("statement_timeout", "2s")]);
    let frozen = Arc::new(SqlProcess::new(&config).unwrap());
    run(&frozen, &event(1, 1)).await.unwrap();
    let call = {
        let frozen = Arc::clone(&frozen);
        tokio::spawn(async move { run(&frozen, &event(2, 1)).await })
    };
    stage
        .until(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                 AND application_name = 'dapper count' AND wait_event = 'PgSleep')",
        )
        .await;
    // What the server says no longer arrives, so nothing more is sent.
    proxy.set(Faults::to_client(Flow::SILENT));
    let successor = stage.process(ADD, &[("timeout", "20s")]);
    timeout(LIMIT, run(&successor, &event(2, 2))).await.unwrap().unwrap();
    assert_eq!(stage.count().await, 1);
    call.abort();
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_and_the_repeat_finds_out() {
    let stage = Stage::set().await;
    let proxy = Proxy::start(stage.database.server().address()).await.unwrap();
    // The commit waits in a trigger that runs then, so that the connection can be cut meanwhile.
    stage
        .client
        .batch_execute(
            "CREATE TABLE late (id text);
             CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await
        .unwrap();
    let url = stage.database.url_via(proxy.address());
    let config = stage.config(&url, "INSERT INTO late VALUES (:id)", &[]);
    let process = Arc::new(SqlProcess::new(&config).unwrap());
    stage.client.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let call = {
        let process = Arc::clone(&process);
        tokio::spawn(async move { run(&process, &event(1, 1)).await })
    };
    stage.until(BLOCKED).await;
    proxy.set(Faults::to_client(Flow::SILENT));
    stage.client.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    stage.until("SELECT EXISTS (SELECT FROM late)").await;
    proxy.reset();
    let error = timeout(LIMIT, call).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, SqlProcessError::UnknownOutcome { .. }), "{error:?}");
    assert_eq!(error.kind(), SqlErrorKind::Transient);
    proxy.heal();
    timeout(LIMIT, run(&process, &event(1, 2))).await.unwrap().unwrap();
    let rows = stage.client.query_one("SELECT count(*) FROM late", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_server_that_is_away_is_a_transient_error_without_the_password() {
    let stage = Stage::set().await;
    let process = SqlProcess::new(&stage.config("postgresql://app:canary@127.0.0.1:1/d", ADD, &[])).unwrap();
    let said = fails(&process, &event(1, 1), SqlErrorKind::Transient).await;
    assert!(
        said.starts_with("can't connect to PostgreSQL at 127.0.0.1:1") && !said.contains("canary"),
        "{said}"
    );
}
