//! The writers against a real server: what they say they did is what the database says.

use std::time::Duration;

use dapper_testkit::history::{Delivery, Outcome, check};
use dapper_testkit::{Database, Server, ServerOptions, StopMode, Workload, WorkloadOptions};
use tokio_postgres::Client;

/// The simplest capture there can be: a row trigger per table into one journal, read in the order of its sequence.
const JOURNAL: &str = "
CREATE TABLE journal (seq bigint GENERATED ALWAYS AS IDENTITY, location text, operation text, id text, at timestamptz);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  old_row jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
  key text := CASE TG_TABLE_NAME
    WHEN 'customers' THEN old_row->>'code'
    WHEN 'order_lines' THEN format('[%s,%s]', old_row->>'order_id', old_row->>'line')
    ELSE old_row->>'id' END;
BEGIN
  INSERT INTO journal (location, operation, id, at)
  VALUES (TG_TABLE_NAME, CASE TG_OP WHEN 'INSERT' THEN 'create' ELSE lower(TG_OP) END, key, clock_timestamp());
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON order_lines FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON counters FOR EACH ROW EXECUTE FUNCTION note();
";

async fn journal(client: &Client) -> Vec<Delivery> {
    let statement = "SELECT json_build_object('event_id', seq::text, 'attempt', 1, 'token', 1, 'location', location, \
         'operation', operation, 'id', id, 'captured_at', to_char(at AT TIME ZONE 'UTC', \
         'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))::text FROM journal ORDER BY seq";
    let rows = client.query(statement, &[]).await.unwrap();
    let now = std::time::Instant::now();
    rows.iter().map(|row| Delivery::from_event(&serde_json::from_str(row.get(0)).unwrap(), now)).collect()
}

#[tokio::test]
async fn the_log_is_what_was_committed() {
    let database = Database::create().await.unwrap();
    let url = database.url();
    Workload::create_tables(&url).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(JOURNAL).await.unwrap();
    let options = WorkloadOptions { limit: Some(3_000), rollback_percent: 20, ..WorkloadOptions::default() };
    let writes = Workload::start(&url, options).await.unwrap().finish().await;
    let mut deliveries = journal(&client).await;
    let report = check(&writes, &deliveries);
    assert!(report.is_clean(), "{report:#?}");
    assert!(report.committed >= 3_000 && report.received == report.committed);
    let rolled_back = writes.transactions.iter().filter(|one| one.outcome == Outcome::RolledBack).count();
    assert!(rolled_back * 100 > writes.transactions.len() * 10);

    // Negative control: one event less is one event lost.
    deliveries.remove(deliveries.len() / 2);
    assert_eq!(check(&writes, &deliveries).lost, 1);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let database = Database::create().await.unwrap();
    Workload::create_tables(&database.url()).await.unwrap();
    let options = WorkloadOptions { rate: Some(300.0), counters: 0, ..WorkloadOptions::default() };
    let workload = Workload::start(&database.url(), options).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let committed = workload.stop().await.committed();
    assert!((300..=750).contains(&committed), "{committed}");
}

#[tokio::test]
async fn a_crash_of_the_server_leaves_unknown_commits_and_no_blame() {
    let server = Server::start(&ServerOptions::default()).unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let url = database.url();
    Workload::create_tables(&url).await.unwrap();
    database.connect().await.unwrap().batch_execute(JOURNAL).await.unwrap();
    let workload = Workload::start(&url, WorkloadOptions::default()).await.unwrap();
    for mode in [StopMode::Immediate, StopMode::Fast] {
        let before = workload.committed();
        while workload.committed() < before + 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.stop(mode).unwrap();
        server.restart().unwrap();
    }
    let before = workload.committed();
    while workload.committed() < before + 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let writes = workload.stop().await;
    let report = check(&writes, &journal(&database.connect().await.unwrap()).await);
    assert!(report.is_clean(), "{report:#?}");
}
