//! Pausing, resuming, skipping, and the record of who did so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dapper_core::Event;
use dapper_lock::MemoryStore;
use tokio_postgres::Client;

use super::parking::{Shop, Stage, quick};
use super::support::{Fixture, Replica, WAIT, config, locks, wait_until, wait_until_covered};
use crate::{
    DeadLetterFilter, PostgresError, Skip, State, StatusReader, audit, dead_letters, install, operated_by,
    pause, resume, retry_dead_letters, skip, skip_candidates,
};

const TABLE: &str = "CREATE TABLE orders (id int PRIMARY KEY)";
/// A pause is known within this time.
const KNOWN: Duration = Duration::from_millis(1_500);

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// In the way that wake-ups come, and in the way without any.
async fn a_paused_input_is_not_read(wake_up: &str) {
    let mut config = config("orders-input", String::new());
    let fixture = Fixture::with(TABLE, |it| {
        it.options.insert("wake_up".into(), wake_up.into());
        config = it.clone();
    })
    .await;
    let store = Arc::new(MemoryStore::new());
    let mut holder = Replica::start(config.clone(), locks(&store)).await;
    let mut reader = StatusReader::new(&config, locks(&store)).unwrap();
    fixture.execute("INSERT INTO orders VALUES (1)").await;
    assert_eq!(ids(&holder.handle().await), ["1"]);

    assert!(pause(&config, None, Some("index rebuild")).await.unwrap());
    assert!(!pause(&config, None, Some("index rebuild, until 6")).await.unwrap());
    tokio::time::sleep(KNOWN).await;
    fixture.execute("INSERT INTO orders VALUES (2)").await;
    fixture.execute("INSERT INTO orders VALUES (3)").await;
    let nothing = tokio::time::timeout(KNOWN, holder.deliveries.recv()).await;
    assert!(nothing.is_err(), "it is read although it is paused");
    let status = reader.look().await;
    assert_eq!((status.state, status.lag.unwrap().changes), (State::Paused, 2), "{}", status.reason);
    assert!(status.reason.contains("index rebuild, until 6"), "{}", status.reason);
    assert_eq!(status.pauses[0].process, None);
    assert_eq!(status.holder.unwrap().token, 1, "the lease is kept");
    assert_eq!(status.cursor.unwrap().handled, 1);

    // The next holder minds it, too.
    holder.stop().await;
    let mut next = Replica::start(config.clone(), locks(&store)).await;
    wait_until(&fixture.client, "SELECT token = 2 FROM dapper_orders_input.cursors").await;
    let nothing = tokio::time::timeout(KNOWN, next.deliveries.recv()).await;
    assert!(nothing.is_err(), "it is read although it is paused");

    let begun = Instant::now();
    assert!(resume(&config, None).await.unwrap());
    assert_eq!(ids(&next.handle_all(2).await), ["2", "3"]);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!resume(&config, None).await.unwrap());
    fixture.execute("INSERT INTO orders VALUES (4)").await;
    assert_eq!(ids(&next.handle().await), ["4"]);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_input_is_not_read_by_any_holder_until_it_is_resumed() {
    a_paused_input_is_not_read("auto").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_known_where_notifications_can_not_come() {
    a_paused_input_is_not_read("poll").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_paused_process_wait_in_order_while_others_go_on() {
    let shop = Shop::new().await;
    let (stage, config) = (Stage::new(), config("i", shop.database.url()));
    let links = [("i", "a"), ("i", "b")];
    let running = shop.run(&stage, &links, quick()).await;
    wait_until_covered(&shop.client, "orders").await;
    shop.client.batch_execute("INSERT INTO orders VALUES (1, 0), (2, 0)").await.unwrap();
    stage.wait_for(4).await;

    // An event that fails is parked before the pause, and must wait with the others.
    stage.fail(|process, event| process == "a" && event.id == "2");
    shop.client.batch_execute("UPDATE orders SET v = 1 WHERE id = 2").await.unwrap();
    wait_until(&shop.client, "SELECT count(*) = 1 FROM dapper_i.parked WHERE process = 'a' AND tries > 0")
        .await;
    assert!(pause(&config, Some("a"), None).await.unwrap());
    wait_until(&shop.client, "SELECT count(*) = 1 FROM dapper_i.parked WHERE claimed IS NULL AND head").await;
    stage.fail(|_, _| false);
    tokio::time::sleep(KNOWN).await;
    let before = stage.count();
    for v in 2..=6 {
        shop.client.batch_execute(&format!("UPDATE orders SET v = {v}")).await.unwrap();
    }
    // Process b: its changes of both rows, and the one before.
    stage.wait_for(before + 10).await;
    wait_until(&shop.client, "SELECT count(*) = 11 FROM dapper_i.parked WHERE process = 'a'").await;
    tokio::time::sleep(KNOWN).await;
    assert_eq!((stage.of("a", "1").len(), stage.of("a", "2").len()), (1, 1));
    let mut reader = StatusReader::new(&config, locks(&shop.store)).unwrap();
    let status = reader.look().await;
    assert_eq!(status.state, State::Idle, "{}", status.reason);
    assert!(status.warnings.iter().any(|it| it.starts_with("process \"a\" is paused for")), "{status:#?}");

    // It stays over a restart, and what is done meanwhile goes on behind it.
    running.stop().await;
    let running = shop.run(&stage, &links, quick()).await;
    shop.client.batch_execute("UPDATE orders SET v = 7").await.unwrap();
    wait_until(&shop.client, "SELECT count(*) = 13 FROM dapper_i.parked WHERE process = 'a'").await;
    tokio::time::sleep(KNOWN).await;
    assert_eq!((stage.of("a", "1").len(), stage.of("a", "2").len()), (1, 1));

    assert!(resume(&config, Some("a")).await.unwrap());
    wait_until(&shop.client, "SELECT count(*) = 0 FROM dapper_i.parked").await;
    shop.client.batch_execute("UPDATE orders SET v = 8").await.unwrap();
    let deadline = Instant::now() + WAIT;
    // `of` checks the order.
    while (stage.of("a", "1").len(), stage.of("a", "2").len()) != (8, 9) {
        assert!(Instant::now() < deadline, "{:?} {:?}", stage.of("a", "1"), stage.of("a", "2"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_change_set_stalls_the_input_until_it_is_skipped_and_is_not_lost() {
    let fixture = Fixture::new(TABLE).await;
    let config = config("orders-input", fixture.database.url());
    let store = Arc::new(MemoryStore::new());
    fixture.execute("INSERT INTO orders VALUES (1)").await;
    fixture.execute("UPDATE dapper_orders_input.change_sets SET payload = 'gar\"bage'").await;
    fixture.execute("INSERT INTO orders VALUES (2)").await;
    let failed = Replica::start(config.clone(), locks(&store)).await.task.await.unwrap().unwrap_err();
    assert!(format!("{failed:?}").contains("ChangeSet"), "{failed:?}");

    let found = skip_candidates(&config).await.unwrap();
    assert_eq!((found.len(), found[0].seq, found[0].event_id.as_ref()), (1, 1, None));
    assert!(found[0].error.contains("can't be understood"), "{}", found[0].error);
    let processes = vec!["print".to_owned()];
    let what = |seq| Skip::ChangeSet { seq, processes: processes.clone() };
    let would = skip(&config, &what(1), None, false).await.unwrap();
    assert_eq!(would.dead_letters, 1);
    assert!(would.events[0].1.contains(r#""payload":"gar\"bage""#), "{would:?}");
    assert_eq!(skip_candidates(&config).await.unwrap(), found, "nothing was changed");
    skip(&config, &what(1), Some("import"), true).await.unwrap();

    let mut holder = Replica::start(config.clone(), locks(&store)).await;
    assert_eq!(ids(&holder.handle().await), ["2"]);
    holder.stop().await;
    let letters = dead_letters(&config, &DeadLetterFilter::default(), 10).await.unwrap();
    assert_eq!(letters.total, 1);
    assert!(letters.letters[0].error.starts_with("skipped: import; change set 1"), "{letters:?}");
    assert!(letters.letters[0].event.contains(r#"gar\"bage"#));
    for seq in [1, 2, 99] {
        let refused = skip(&config, &what(seq), None, true).await;
        assert!(matches!(refused, Err(PostgresError::NothingToSkip { .. })), "{seq}: {refused:?}");
    }

    // One that can be read is dead at each process where it would have entered, and can be brought back.
    fixture.execute("INSERT INTO orders VALUES (3), (4)").await;
    assert_eq!(skip(&config, &what(3), None, true).await.unwrap().dead_letters, 2);
    let filter = DeadLetterFilter { key: Some("4".into()), ..DeadLetterFilter::default() };
    assert_eq!(retry_dead_letters(&config, &filter).await.unwrap(), 1);
    let mut holder = Replica::start(config.clone(), locks(&store)).await;
    let again = holder.handle().await;
    assert_eq!((ids(&again), again[0].attempt), (vec!["4".to_owned()], Some(2)));
    holder.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_event_that_is_skipped_is_a_dead_letter_and_those_behind_it_go_on() {
    let shop = Shop::new().await;
    let (stage, config) = (Stage::new(), config("i", shop.database.url()));
    let running = shop.run(&stage, &[("i", "a")], quick()).await;
    wait_until_covered(&shop.client, "orders").await;
    stage.fail(|_, event| event.operation == dapper_core::Operation::Create);
    shop.client.batch_execute("INSERT INTO orders VALUES (1, 0)").await.unwrap();
    shop.client.batch_execute("UPDATE orders SET v = 1").await.unwrap();
    wait_until(&shop.client, "SELECT count(*) = 2 FROM dapper_i.parked").await;
    let found = skip_candidates(&config).await.unwrap();
    let event_id = found.iter().find_map(|it| it.event_id.clone()).unwrap();
    assert!(
        found.iter().any(|it| it.process.as_deref() == Some("a") && it.error.contains("503")),
        "{found:?}"
    );
    let elsewhere = Skip::Event { event_id: event_id.clone(), process: Some("b".into()) };
    assert!(matches!(skip(&config, &elsewhere, None, true).await, Err(PostgresError::NothingToSkip { .. })));
    let what = Skip::Event { event_id, process: None };
    assert_eq!(skip(&config, &what, None, false).await.unwrap().dead_letters, 1);
    assert_eq!(count(&shop.client, "SELECT count(*) FROM dapper_i.dead_letters").await, 0);
    assert_eq!(skip(&config, &what, None, true).await.unwrap().dead_letters, 1);
    stage.wait_for(1).await;
    wait_until(&shop.client, "SELECT count(*) = 0 FROM dapper_i.parked").await;
    let letters = dead_letters(&config, &DeadLetterFilter::default(), 10).await.unwrap();
    assert!(letters.letters[0].error.starts_with("skipped; its last error: "), "{letters:?}");
    // The key flows again.
    shop.client.batch_execute("UPDATE orders SET v = 2").await.unwrap();
    stage.wait_for(2).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_state_is_recorded_and_old_records_go() {
    let fixture = Fixture::new(TABLE).await;
    let config = config("orders-input", fixture.database.url());
    fixture.execute("CREATE TABLE more (id int PRIMARY KEY)").await;
    fixture.execute("DROP EVENT TRIGGER IF EXISTS dapper_orders_input_tables").await;
    let done = async {
        install(&config).await.unwrap();
        pause(&config, None, Some("lunch")).await.unwrap();
        resume(&config, None).await.unwrap();
        resume(&config, None).await.unwrap();
        pause(&config, Some("print"), None).await.unwrap();
        resume(&config, Some("print")).await.unwrap();
        fixture.execute("INSERT INTO orders VALUES (1)").await;
        let what = Skip::ChangeSet { seq: 1, processes: vec!["print".into()] };
        skip(&config, &what, None, false).await.unwrap();
        skip(&config, &what, Some("test"), true).await.unwrap();
        retry_dead_letters(&config, &DeadLetterFilter::default()).await.unwrap();
        crate::discard_dead_letters(&config, &DeadLetterFilter::default()).await.unwrap();
        crate::accept_lock_store(&config, dapper_lock::StoreId::random()).await.unwrap();
        crate::rebase(&config).await.unwrap();
    };
    operated_by("ann@web-1", done).await;
    let records = audit(&config, None, 100).await.unwrap();
    let actions: Vec<&str> = records.iter().map(|record| record.action.as_str()).collect();
    let expected = [
        "install",
        "install",
        "pause",
        "resume",
        "pause",
        "resume",
        "skip",
        "dead-letters retry",
        "accept-lock-store",
        "rebase",
    ];
    assert_eq!(actions, expected, "{records:#?}");
    assert_eq!(
        (records[2].details.as_str(), records[4].details.as_str()),
        ("the input: lunch", "process \"print\"")
    );
    assert_eq!(records[6].details, "change set 1 of 1 event(s); skipped: test");
    assert_eq!(records[7].details, "1 dead letter(s); all");
    let role: String = fixture.client.query_one("SELECT session_user::text", &[]).await.unwrap().get(0);
    for record in &records[1..] {
        assert_eq!((record.run_by.as_str(), &record.role), ("ann@web-1", &role), "{record:?}");
        assert!(record.at.ends_with('Z') && record.application.starts_with("dapper "), "{record:?}");
    }
    assert_eq!(audit(&config, None, 1).await.unwrap()[0].action, "rebase");

    fixture
        .execute(
            "UPDATE dapper_orders_input.audit SET at = at - interval '1 hour' WHERE action <> 'rebase';
             INSERT INTO dapper_orders_input.audit (run_by, action, details)
             SELECT 'x', 'old', '' FROM generate_series(1, 10500)",
        )
        .await;
    pause(&config, None, None).await.unwrap();
    let kept = count(&fixture.client, "SELECT count(*) FROM dapper_orders_input.audit").await;
    assert!((10_000..=10_001).contains(&kept), "{kept}");
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(1_800);
    assert_eq!(audit(&config, Some(since), 5).await.unwrap().last().unwrap().action, "pause");
}
