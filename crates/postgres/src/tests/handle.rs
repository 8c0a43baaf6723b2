//! Replicas at work: one at a time, in order, nothing lost.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::ErrorKind;
use dapper_lock::MemoryStore;
use dapper_testkit::{Database, Server, ServerOptions, StopMode};
use tokio_postgres::Client;

use super::support::{Replica, WAIT, config, locks, wait_until, wait_until_covered};

/// A database with a table, and a replica that holds the lease and has the table under capture.
async fn leading() -> (Database, Client, Arc<MemoryStore>, Replica) {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY, v int)").await.unwrap();
    let store = Arc::new(MemoryStore::new());
    let replica = Replica::start(config("i", database.url()), locks(&store)).await;
    wait_until_covered(&client, "orders").await;
    (database, client, store, replica)
}

#[tokio::test]
async fn a_stopped_replica_hands_over_without_a_repeat() {
    let (database, client, store, mut first) = leading().await;
    let mut second = Replica::start(config("i", database.url()), locks(&store)).await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    let events = first.handle_all(1).await;
    assert_eq!((events[0].id.as_str(), events[0].attempt, events[0].token), ("1", Some(1), Some(1)));
    first.stop().await;
    wait_until(&client, "SELECT last_value = 0 FROM dapper_i.wake_up").await;
    client.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
    let events = second.handle_all(1).await;
    let seen: Vec<_> = events.iter().map(|event| (event.id.as_str(), event.attempt, event.token)).collect();
    assert_eq!(seen, [("2", Some(1), Some(2))]);
    second.stop().await;
    wait_until(&client, "SELECT last_value = 1 FROM dapper_i.wake_up").await;
}

#[tokio::test]
async fn what_was_handed_out_and_not_handled_comes_again_marked() {
    let (database, client, store, mut first) = leading().await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    let delivery = tokio::time::timeout(WAIT, first.deliveries.recv()).await.unwrap().unwrap();
    first.task.abort();
    let mut second = Replica::start(config("i", database.url()), locks(&store)).await;
    let again = second.handle_all(1).await;
    assert!(again[0].attempt > Some(1) && again[0].token > Some(1), "{again:?}");
    // The first replica's events may no longer be handed to a process.
    let (event, acknowledgement) = delivery.into_events().next().unwrap();
    assert_eq!(event.event_id, again[0].event_id);
    assert!(!acknowledgement.is_valid());
    client.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
    assert_eq!(second.handle_all(1).await[0].attempt, Some(1));
    second.stop().await;
}

#[tokio::test]
async fn a_backlog_of_several_batches_is_taken_up_from_a_holder_that_crashed() {
    const CHANGES: usize = 5_000;
    let (database, client, store, mut first) = leading().await;
    let one_by_one =
        format!("DO $$ BEGIN FOR id IN 1..{CHANGES} LOOP INSERT INTO orders VALUES (id); END LOOP; END $$");
    client.batch_execute(&one_by_one).await.unwrap();
    let held = tokio::time::timeout(WAIT, first.deliveries.recv()).await.unwrap().unwrap();
    first.task.abort();
    drop(held);
    let mut second = Replica::start(config("i", database.url()), locks(&store)).await;
    // It asks what is parked of these while the next ones are on their way to it.
    let events = second.handle_all(CHANGES).await;
    let ids: std::collections::HashSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!((events.len(), ids.len()), (CHANGES, CHANGES));
    assert!(events[0].attempt > Some(1) && events[CHANGES - 1].attempt == Some(1));
    second.stop().await;
}

#[tokio::test]
async fn abandoned_events_end_the_input_and_come_again() {
    let (database, client, store, mut first) = leading().await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    drop(tokio::time::timeout(WAIT, first.deliveries.recv()).await.unwrap().unwrap());
    let error = tokio::time::timeout(WAIT, first.task).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let mut second = Replica::start(config("i", database.url()), locks(&store)).await;
    assert_eq!(second.handle_all(1).await[0].attempt, Some(2));
    second.stop().await;
}

#[tokio::test]
async fn a_slow_event_does_not_stop_the_others() {
    let (_database, client, _store, mut replica) = leading().await;
    client.batch_execute("INSERT INTO orders VALUES (0)").await.unwrap();
    let slow = tokio::time::timeout(WAIT, replica.deliveries.recv()).await.unwrap().unwrap();
    for id in 1..=10 {
        client.batch_execute(&format!("INSERT INTO orders VALUES ({id})")).await.unwrap();
        assert_eq!(replica.handle_all(1).await[0].id, id.to_string());
    }
    // The cursor still says that all of it may come again.
    let row = client.query_one("SELECT done, claimed IS NOT NULL FROM dapper_i.cursors", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (0, true));
    for (_, acknowledgement) in slow.into_events() {
        acknowledgement.handled();
    }
    wait_until(&client, "SELECT claimed IS NULL FROM dapper_i.cursors").await;
    replica.stop().await;
}

#[tokio::test]
async fn a_lost_connection_ends_the_input_and_nothing_is_lost() {
    let (database, client, store, replica) = leading().await;
    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dapper i%' AND datname = current_database()")
        .await
        .unwrap();
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    let error = tokio::time::timeout(WAIT, replica.task).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let mut next = Replica::start(config("i", database.url()), locks(&store)).await;
    assert_eq!(next.handle_all(1).await[0].id, "1");
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_found_the_reader_awake_is_not_forgotten_when_that_goes_to_sleep() {
    let (database, client, _store, mut replica) = leading().await;
    wait_until(&client, "SELECT last_value = 0 FROM dapper_i.wake_up").await;
    let deliveries = std::mem::replace(&mut replica.deliveries, tokio::sync::mpsc::channel(1).1);
    let (mut ids, handling) = handle_in_background(deliveries);

    // Writers keep the reader awake; meanwhile a slow one writes and, finding it awake, sends no notification.
    let busy = database.connect().await.unwrap();
    let stop = dapper_core::CancellationToken::new();
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut id = 1_000;
        while !stopped.is_cancelled() {
            busy.batch_execute(&format!("INSERT INTO orders VALUES ({id})")).await.unwrap();
            id += 1;
        }
    });
    let slow = database.connect().await.unwrap();
    let is_awake = "SELECT last_value = 1 FROM dapper_i.wake_up";
    loop {
        wait_until(&client, is_awake).await;
        slow.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO orders VALUES (1)")
            .await
            .unwrap();
        if client.query_one(is_awake, &[]).await.unwrap().get(0) {
            break;
        }
        slow.batch_execute("ROLLBACK").await.unwrap();
    }
    stop.cancel();
    writing.await.unwrap();

    // The others are done, the reader goes to sleep, and only then does the slow one commit.
    wait_until(&client, "SELECT last_value = 0 FROM dapper_i.wake_up").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let committed = std::time::Instant::now();
    slow.batch_execute("COMMIT").await.unwrap();
    while tokio::time::timeout(WAIT, ids.recv()).await.unwrap().unwrap() != "1" {}
    assert!(committed.elapsed() < Duration::from_secs(2), "only the backstop woke the reader");
    handling.abort();
}

/// Handles whatever is delivered, and passes on the ids.
fn handle_in_background(
    mut deliveries: tokio::sync::mpsc::Receiver<dapper_core::Delivery>,
) -> (tokio::sync::mpsc::UnboundedReceiver<String>, tokio::task::JoinHandle<()>) {
    let (sender, ids) = tokio::sync::mpsc::unbounded_channel();
    let handling = tokio::spawn(async move {
        while let Some(delivery) = deliveries.recv().await {
            for (event, acknowledgement) in delivery.into_events() {
                acknowledgement.handled();
                let _ = sender.send(event.id);
            }
        }
    });
    (ids, handling)
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_work_and_are_delivered() {
    let settings = vec![("max_prepared_transactions".to_owned(), "5".to_owned())];
    let server = tokio::task::spawn_blocking(move || {
        Server::start(&ServerOptions { settings, ..Default::default() }).unwrap()
    })
    .await
    .unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
    let store = Arc::new(MemoryStore::new());
    let mut replica = Replica::start(config("i", database.url()), locks(&store)).await;
    wait_until_covered(&client, "orders").await;
    wait_until(&client, "SELECT last_value = 1 FROM dapper_i.wake_up").await;
    client.batch_execute("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'one'").await.unwrap();
    client.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
    assert_eq!(replica.handle_all(1).await[0].id, "2");
    client.batch_execute("COMMIT PREPARED 'one'").await.unwrap();
    assert_eq!(replica.handle_all(1).await[0].id, "1");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_can_be_prepared_before_the_first_replica_has_started() {
    let settings = vec![("max_prepared_transactions".to_owned(), "5".to_owned())];
    let start = move || Server::start(&ServerOptions { settings, ..Default::default() }).unwrap();
    let server = tokio::task::spawn_blocking(start).await.unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
    crate::install(&config("i", database.url())).await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'one'").await.unwrap();
    client.batch_execute("COMMIT PREPARED 'one'").await.unwrap();
    let store = Arc::new(MemoryStore::new());
    let mut replica = Replica::start(config("i", database.url()), locks(&store)).await;
    assert_eq!(replica.handle_all(1).await[0].id, "1");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_crash_could_undo_is_delivered() {
    let settings = [("wal_writer_delay", "10s"), ("synchronous_commit", "off")];
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let server = tokio::task::spawn_blocking(move || {
        Server::start(&ServerOptions { settings, ..Default::default() }).unwrap()
    })
    .await
    .unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
    let store = Arc::new(MemoryStore::new());
    let mut replica = Replica::start(config("i", database.url()), locks(&store)).await;
    wait_until_covered(&client, "orders").await;
    for id in 1..=5 {
        client.batch_execute(&format!("INSERT INTO orders VALUES ({id})")).await.unwrap();
        assert_eq!(replica.handle_all(1).await[0].id, id.to_string());
    }
    tokio::task::spawn_blocking(move || {
        server.stop(StopMode::Immediate).unwrap();
        server.restart().unwrap();
    })
    .await
    .unwrap();
    let client = database.connect().await.unwrap();
    let row = client.query_one("SELECT count(*) FROM orders", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 5, "a delivered change was undone");
}

#[tokio::test]
async fn a_table_created_while_running_is_covered_within_seconds() {
    let (_database, client, _store, mut replica) = leading().await;
    client.batch_execute("CREATE TABLE later (id int PRIMARY KEY)").await.unwrap();
    let created = std::time::Instant::now();
    wait_until_covered(&client, "later").await;
    assert!(created.elapsed() < Duration::from_secs(10));
    client.batch_execute("INSERT INTO later VALUES (7)").await.unwrap();
    assert_eq!(replica.handle_all(1).await[0].location.as_ref(), "later");
    replica.stop().await;
}
