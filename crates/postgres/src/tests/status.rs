//! What `dapper status` shows, against real replicas and a real database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dapper_lock::MemoryStore;
use dapper_testkit::{Faults, Flow, Proxy};

use super::support::{Fixture, Replica, WAIT, config, locks, wait_until_covered};
use crate::{State, Status, StatusReader, operated_by};

const TABLE: &str = "CREATE TABLE orders (id int PRIMARY KEY)";

/// Looks until it is so.
async fn until(reader: &mut StatusReader, is_so: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + WAIT;
    loop {
        let status = reader.look().await;
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "never: {status:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_holder_standbys_progress_and_a_stall_within_5_s() {
    let fixture = Fixture::new(TABLE).await;
    let (store, url) = (Arc::new(MemoryStore::new()), fixture.database.url());
    let config = config("orders-input", url);
    let (first, second) = (locks(&store), locks(&store));
    let mut reader = StatusReader::new(&config, Arc::clone(&second)).unwrap();
    assert_eq!(reader.look().await.state, State::NoHolder);

    let mut holder = operated_by("ann@one", Replica::start(config.clone(), Arc::clone(&first))).await;
    until(&mut reader, |status| status.state == State::Idle && status.cursor.unwrap().token == 1).await;
    let _standby = operated_by("bob@two", Replica::start(config, Arc::clone(&second))).await;
    let idle = until(&mut reader, |status| status.standbys.len() == 1).await;
    let held = idle.holder.as_ref().unwrap();
    assert_eq!((held.id.as_str(), held.token), (first.holder_id().to_string().as_str(), 1));
    assert_eq!(held.replica.as_ref().unwrap().run_by, "ann@one");
    assert_eq!(held.replica.as_ref().unwrap().process_id, i64::from(std::process::id()));
    assert!(held.for_seconds.unwrap() < 20.0 && held.since.as_deref().unwrap().ends_with('Z'));
    assert_eq!(idle.standbys[0].run_by, "bob@two");
    assert_eq!(idle.standbys[0].id, second.holder_id().to_string());
    assert_eq!(idle.warnings, Vec::<String>::new());
    wait_until_covered(&fixture.client, "orders").await;
    assert_eq!((idle.coverage.unwrap().covered, idle.coverage.unwrap().problems), (1, 0));

    fixture.execute("INSERT INTO orders SELECT generate_series(1, 300)").await;
    assert_eq!(holder.handle_all(300).await.len(), 300);
    let moved = until(&mut reader, |status| status.cursor.unwrap().handled == 300).await;
    assert!(moved.cursor.unwrap().moved_seconds.unwrap() < 20.0);
    assert!(moved.rate.unwrap() > 0.0, "{moved:#?}");

    // A process hangs with what it has.
    fixture.execute("INSERT INTO orders SELECT generate_series(301, 307)").await;
    let begun = Instant::now();
    let kept = holder.deliveries.recv().await.unwrap();
    let stalled = until(&mut reader, |status| status.state == State::Stalled).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((stalled.lag.unwrap().changes, stalled.lag.unwrap().exact), (7, true));
    assert!(stalled.lag.unwrap().seconds >= 3.0);
    assert!(stalled.reason.contains("7 changes wait"), "{}", stalled.reason);
    // One of them is handled: that shows although the batch is not done.
    let mut events = kept.into_events();
    events.next().unwrap().1.handled();
    let moving = until(&mut reader, |status| status.cursor.unwrap().handled == 301).await;
    assert_eq!(moving.state, State::Leading, "{}", moving.reason);
    events.for_each(|(_, acknowledgement)| acknowledgement.handled());
    let idle = until(&mut reader, |status| status.state == State::Idle).await;
    assert_eq!((idle.lag.unwrap().changes, idle.cursor.unwrap().handled), (0, 307));
    holder.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_is_told_within_5_s_and_named() {
    let fixture = Fixture::new(TABLE).await;
    let proxy = Proxy::start(fixture.database.server().address()).await.unwrap();
    let config = config("orders-input", fixture.database.url_via(proxy.address()));
    let mut reader = StatusReader::new(&config, locks(&Arc::new(MemoryStore::new()))).unwrap();
    assert_eq!(reader.look().await.state, State::NoHolder);
    let silent = Flow { silent: true, ..Flow::default() };
    proxy.set(Faults { to_server: silent, to_client: silent });
    for _ in 0..2 {
        let begun = Instant::now();
        let frozen = reader.look().await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(frozen.state, State::Unreachable);
        let address = proxy.address().to_string();
        let database = format!("database {:?}", fixture.database.name());
        for part in [address.as_str(), &database, "user ", "within 4 s"] {
            assert!(frozen.reason.contains(part), "{part}: {}", frozen.reason);
        }
    }
    proxy.heal();
    proxy.reset();
    assert_eq!(reader.look().await.state, State::NoHolder);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_installation_it_says_so() {
    let database = dapper_testkit::Database::create().await.unwrap();
    let config = config("orders-input", database.url());
    let mut reader = StatusReader::new(&config, locks(&Arc::new(MemoryStore::new()))).unwrap();
    let status = reader.look().await;
    assert_eq!(status.state, State::NotInstalled);
    assert!(status.reason.contains("run `dapper install`"), "{}", status.reason);
}

/// The cursor in every shape, and unread changes on both sides of each of its snapshots.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_counted_whatever_the_cursor_is_at_and_reckoned_when_it_is_much() {
    let fixture = Fixture::new(TABLE).await;
    let mut reader = StatusReader::new(
        &config("orders-input", fixture.database.url()),
        locks(&Arc::new(MemoryStore::new())),
    )
    .unwrap();
    let other = fixture.database.connect().await.unwrap();
    let waiting = async |reader: &mut StatusReader| {
        let lag = reader.look().await.lag.unwrap();
        assert!(lag.exact);
        lag.changes
    };
    fixture.execute("INSERT INTO orders SELECT generate_series(1, 5)").await;
    assert_eq!(waiting(&mut reader).await, 5);
    // One is open while the cursor passes everything.
    other.batch_execute("BEGIN; INSERT INTO orders SELECT generate_series(101, 103)").await.unwrap();
    fixture.execute("INSERT INTO orders VALUES (6)").await;
    fixture
        .execute("UPDATE dapper_orders_input.cursors SET prev = pg_current_snapshot(), target = NULL")
        .await;
    assert_eq!(waiting(&mut reader).await, 0);
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waiting(&mut reader).await, 3, "it was in progress at the last snapshot");
    fixture.execute("INSERT INTO orders VALUES (7), (8)").await;
    assert_eq!(waiting(&mut reader).await, 5);
    // A target is worked off up to its third change set, while another is open.
    fixture
        .execute("UPDATE dapper_orders_input.cursors SET prev = pg_current_snapshot(), target = NULL")
        .await;
    fixture.execute("INSERT INTO orders VALUES (9)").await;
    other.batch_execute("BEGIN; INSERT INTO orders VALUES (111), (112)").await.unwrap();
    fixture.execute("INSERT INTO orders VALUES (10)").await;
    fixture.execute("INSERT INTO orders VALUES (11)").await;
    fixture.execute("INSERT INTO orders VALUES (12)").await;
    fixture
        .execute(
            "UPDATE dapper_orders_input.cursors SET target = pg_current_snapshot(),
                    done = (SELECT last_value - 1 FROM dapper_orders_input.change_sets_seq)",
        )
        .await;
    assert_eq!(waiting(&mut reader).await, 1, "the last of the target");
    other.batch_execute("COMMIT").await.unwrap();
    fixture.execute("INSERT INTO orders VALUES (13)").await;
    assert_eq!(waiting(&mut reader).await, 1 + 2 + 1);

    // More than are counted.
    fixture
        .execute(
            "UPDATE dapper_orders_input.cursors SET prev = pg_current_snapshot(), target = NULL;
             DO $$ BEGIN FOR n IN 1..12000 LOOP INSERT INTO orders VALUES (2 * n + 1000), (2 * n + 1001); END LOOP; END $$",
        )
        .await;
    let lag = reader.look().await.lag.unwrap();
    assert!(!lag.exact && (23_990..24_100).contains(&lag.changes), "{lag:?}");
}
