//! What the statement gets to see, and what the server says of it beforehand.

use dapper_core::RawJson;
use dapper_sql_process::{SqlErrorKind, probe};

use crate::support::{ADD, Stage, chain, event, fails, run};

#[tokio::test]
async fn every_field_arrives_in_the_type_that_its_place_asks_for() {
    let stage = Stage::set().await;
    stage
        .client
        .batch_execute(
            "CREATE TYPE kind AS ENUM ('update', 'delete');
             CREATE TABLE log (event_id text, location varchar(20), operation kind, id bigint, text_id text,
                 trigger name, key jsonb, old json, new jsonb, attempt smallint, token numeric,
                 captured_at timestamptz, traceparent text, total numeric, event jsonb)",
        )
        .await
        .unwrap();
    let process = stage.process(
        "INSERT INTO log VALUES (:event_id, :location, :operation, :id, :id, :trigger, :key, :old, :new, :attempt,
             :token, :captured_at, :traceparent, (:new::jsonb->>'total')::numeric, :event); -- :id",
        &[],
    );
    let mut full = event(42, 7);
    let json = |text: &str| Some(RawJson::parse(text.to_owned()).unwrap());
    (full.key, full.new) = (json(r#"{"id":42}"#), json(r#"{"id":42,"total":12345678901234567890.10}"#));
    full.captured_at = Some("2026-01-01T12:00:00.000001Z".into());
    run(&process, &full).await.unwrap();
    let text = "SELECT row_to_json(log)::text FROM (SELECT event_id, location, operation, id, text_id, trigger, key, old,
                    new, attempt, token, captured_at AT TIME ZONE 'UTC' AS at, traceparent, total,
                    event->>'trigger' AS trigger_again FROM log) log";
    let row: String = stage.client.query_one(text, &[]).await.unwrap().get(0);
    assert_eq!(
        row,
        r#"{"event_id":"6f0c31c8-3c0f-4f0e-a6d8-00000000002a/0","location":"orders","operation":"update","id":42,"text_id":"42","trigger":"orders_input","key":{"id": 42},"old":null,"new":{"id": 42, "total": 12345678901234567890.10},"attempt":1,"token":7,"at":"2026-01-01T12:00:00.000001","traceparent":null,"total":12345678901234567890.10,"trigger_again":"orders_input"}"#
    );
}

#[tokio::test]
async fn nothing_in_an_event_is_code() {
    let stage = Stage::set().await;
    stage.client.batch_execute("CREATE TABLE log (id text)").await.unwrap();
    let process = stage.process("INSERT INTO log VALUES (:id)", &[]);
    let mut evil = event(1, 1);
    evil.id = "'); DROP TABLE counter; -- :key $1".into();
    run(&process, &evil).await.unwrap();
    assert_eq!(stage.client.query_one("SELECT id FROM log", &[]).await.unwrap().get::<_, String>(0), evil.id);
    assert_eq!(stage.count().await, 0);
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_a_permanent_error() {
    let stage = Stage::set().await;
    let process = stage.process("UPDATE counter SET n = :id", &[]);
    let mut odd = event(1, 1);
    odd.id = "x".into();
    let said = fails(&process, &odd, SqlErrorKind::Permanent).await;
    assert!(said.starts_with("running the statement failed: ") && said.contains("bigint"), "{said}");
}

#[tokio::test]
async fn the_server_says_beforehand_what_is_wrong_and_nothing_is_changed() {
    let stage = Stage::set().await;
    let url = stage.database.url();
    let good = probe(&stage.config(&url, ADD, &[])).await.unwrap();
    assert!(good.ends_with("; the inbox is not installed yet"), "{good}");
    for (statement, expected) in [
        ("UPDATE conter SET n = 1", "relation \"conter\" does not exist"),
        ("UPDTE counter", "syntax error at or near \"UPDTE\""),
        ("UPDATE counter SET n = :key || 1", "is of type bigint"),
    ] {
        let error = probe(&stage.config(&url, statement, &[])).await.unwrap_err();
        let said = chain(&error);
        assert!(said.starts_with("preparing the statement failed: ") && said.contains(expected), "{said}");
        assert_eq!(error.kind(), SqlErrorKind::Permanent);
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'dapper_inbox'";
    assert_eq!(stage.client.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);
}
