//! A holder that was replaced and does not know it yet, at the very moment that matters; and calls that are dropped.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use dapper_core::{CancellationToken, EventSink};
use dapper_lock::MemoryStore;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::support::{Fixture, Replica, config, locks, seal, wait_until, wait_until_covered};
use crate::session::Session;
use crate::{PostgresError, PostgresInput};

const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY)";
/// An input that is not polled for so long has done all there was to do.
const IDLE: Duration = Duration::from_secs(3);
/// True while one session waits for another's row lock.
const ONE_WAITS: &str = "SELECT count(*) = 1 FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()";

#[tokio::test]
async fn an_advance_that_comes_just_before_the_takeover_counts_and_one_just_after_does_not() {
    let fixture = Fixture::new(ORDERS).await;
    let schema = &fixture.options.names.schema;
    let zombie_session = Session::open(&fixture.options.connection, "zombie").await.unwrap();
    let mut zombie = seal(&zombie_session, schema, 3).await.unwrap();
    zombie.position.done = 7;

    // The advance has the row; the takeover waits for it, and finds what it wrote.
    zombie_session.client().batch_execute("BEGIN").await.unwrap();
    zombie.cursor.save(zombie_session.client(), &zombie.position).await.unwrap();
    let second_session = Session::open(&fixture.options.connection, "second").await.unwrap();
    let takeover = async { seal(&second_session, schema, 4).await.unwrap() };
    let commit = async {
        wait_until(&fixture.client, ONE_WAITS).await;
        zombie_session.client().batch_execute("COMMIT").await.unwrap();
    };
    let (mut second, ()) = tokio::join!(takeover, commit);
    assert_eq!(second.position.done, 7);

    // The takeover has the row; the advance waits for it, and changes nothing.
    fixture.session.client().batch_execute("BEGIN").await.unwrap();
    let third = seal(&fixture.session, schema, 5).await.unwrap();
    second.position.done = 9;
    let advance = second.cursor.save(second_session.client(), &second.position);
    let commit = async {
        wait_until(&fixture.client, ONE_WAITS).await;
        fixture.session.client().batch_execute("COMMIT").await.unwrap();
    };
    let (advanced, ()) = tokio::join!(advance, commit);
    assert!(matches!(advanced, Err(PostgresError::Fenced { sealed: 5, ours: 4 })), "{advanced:?}");
    assert_eq!(third.position.done, 7);
    let row = fixture.client.query_one(&format!("SELECT done FROM \"{schema}\".cursors"), &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 7);
}

/// Runs the input for so many polls, with processes that handle everything at once, and then drops it. False when it
/// was not polled so often, since it had nothing more to do.
async fn run_for(polls: usize, input: &PostgresInput, seen: &mut Vec<(String, Option<u32>)>) -> bool {
    let (delivery_sender, mut deliveries) = mpsc::channel(1);
    let (error_sender, _errors) = mpsc::channel(16);
    let sink = EventSink::new(delivery_sender, error_sender);
    let mut handle = pin!(input.handle(sink, CancellationToken::new()));
    let mut left = polls;
    let work = poll_fn(|context| {
        while let Poll::Ready(Some(delivery)) = deliveries.poll_recv(context) {
            for (event, acknowledgement) in delivery.into_events() {
                seen.push((event.id.clone(), event.attempt));
                acknowledgement.handled();
            }
        }
        left -= 1;
        if left == 0 || handle.as_mut().poll(context).is_ready() { Poll::Ready(()) } else { Poll::Pending }
    });
    timeout(IDLE, work).await.is_ok()
}

#[tokio::test]
async fn an_input_dropped_at_any_poll_loses_nothing_and_marks_what_comes_again() {
    let fixture = Fixture::new(ORDERS).await;
    let store = Arc::new(MemoryStore::new());
    let config = || config("orders-input", fixture.database.url());
    wait_until_covered(&fixture.client, "orders").await;
    let mut seen: Vec<(String, Option<u32>)> = Vec::new();
    let mut written = 0;
    for polls in 1.. {
        written += 1;
        fixture.execute(&format!("INSERT INTO orders VALUES ({written})")).await;
        // Each with locks of its own, as a process that has just started.
        let input = PostgresInput::new(config(), locks(&store)).await.unwrap();
        if !run_for(polls, &input, &mut seen).await {
            break;
        }
    }
    let dropped = seen.len();
    let mut last = Replica::start(config(), locks(&store)).await;
    written += 1;
    fixture.execute(&format!("INSERT INTO orders VALUES ({written})")).await;
    while seen.last().is_none_or(|(id, _)| *id != written.to_string()) {
        let events = last.handle().await;
        seen.extend(events.into_iter().map(|event| (event.id.clone(), event.attempt)));
    }
    last.stop().await;
    assert!(dropped > 0, "nothing was ever handled before the input was dropped");
    for id in 1..=written {
        let attempts: Vec<Option<u32>> =
            seen.iter().filter(|(seen, _)| *seen == id.to_string()).map(|(_, attempt)| *attempt).collect();
        assert!(!attempts.is_empty(), "{id} is lost");
        assert!(
            attempts[1..].iter().all(|attempt| *attempt > Some(1)),
            "{id} came again unmarked: {attempts:?}"
        );
    }
}
