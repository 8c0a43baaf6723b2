//! Each failure of the ancestor: provoked on its way of doing things, and absent from ours, in one test.
//!
//! The ancestor's way is written here anew from its description: a row trigger that notifies with table, id and
//! operation; a lock table that is locked `WHERE resource = 1` although no row is ever put into it; listeners that take
//! the notification's text for the change.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dapper_core::{CancellationToken, ErrorKind, Event, Operation, Process, ProcessError, ProcessStatus};
use dapper_lock::MemoryStore;
use dapper_orchestrator::Orchestrator;
use dapper_testkit::Database;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::support::{Replica, WAIT, config, locks, wait_until_covered};
use crate::PostgresInput;
use crate::session::{Notifications, Session};
use dapper_connect::ConnectionString;

/// The ancestor's installation, for tables that exist now.
const ANCESTOR: &str = r"
    CREATE OR REPLACE FUNCTION process_record_seed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('seed', json_build_object('tbl', TG_TABLE_NAME, 'id', COALESCE(NEW.id, 0), 'op', TG_OP)::text);
        RETURN NEW;
    END $$;
    DO $$ DECLARE t text; BEGIN
        FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'seed_lock' LOOP
            EXECUTE format('CREATE OR REPLACE TRIGGER seed AFTER INSERT OR UPDATE OR DELETE ON %I
                            FOR EACH ROW EXECUTE FUNCTION process_record_seed()', t);
        END LOOP;
    END $$;
    CREATE TABLE IF NOT EXISTS seed_lock (resource int PRIMARY KEY)";

async fn database(sql: &str) -> (Database, Client) {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(sql).await.unwrap();
    (database, client)
}

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY)";

/// A replica of the ancestor: takes its lock, listens, keeps the texts.
struct Listener {
    session: Session,
    notifications: Notifications,
}

impl Listener {
    async fn start(database: &Database) -> Self {
        let connection = ConnectionString::parse(&database.url().into()).unwrap();
        let mut session = Session::open(&connection, "ancestor").await.unwrap();
        let lock = "BEGIN; SELECT * FROM public.seed_lock WHERE resource = 1 FOR UPDATE; COMMIT; LISTEN seed";
        tokio::time::timeout(Duration::from_secs(2), session.client().batch_execute(lock))
            .await
            .unwrap()
            .unwrap();
        let notifications = session.take_notifications();
        Self { session, notifications }
    }

    /// What was heard up to now.
    async fn heard(&mut self) -> Vec<String> {
        // Notifications come before the answer to a later query.
        self.session.client().batch_execute("SELECT 1").await.unwrap();
        std::iter::from_fn(|| self.notifications.foreign.try_recv().ok()).collect()
    }
}

#[tokio::test]
async fn one_insert_with_two_replicas_is_handled_once() {
    let (there, client) = database(&format!("{ORDERS}; {ANCESTOR}")).await;
    let (mut one, mut two) = (Listener::start(&there).await, Listener::start(&there).await);
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    assert_eq!(
        one.heard().await.len() + two.heard().await.len(),
        2,
        "both replicas hold the ancestor's lock"
    );

    let (here, client) = database(ORDERS).await;
    let store = Arc::new(MemoryStore::new());
    let mut one = Replica::start(config("i", here.url()), locks(&store)).await;
    let mut two = Replica::start(config("i", here.url()), locks(&store)).await;
    wait_until_covered(&client, "orders").await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    let (events, other) = tokio::select! {
        events = one.handle_all(1) => (events, &mut two),
        events = two.handle_all(1) => (events, &mut one),
    };
    assert_eq!(events.len(), 1);
    let silence = tokio::time::timeout(Duration::from_millis(500), other.deliveries.recv()).await;
    assert!(silence.is_err(), "the standby delivered");
}

#[tokio::test]
async fn replicas_that_start_together_do_not_trip_over_each_other() {
    let (there, _client) = database(ORDERS).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(there.connect().await.unwrap());
    }
    let mut failed = false;
    for _ in 0..50 {
        let installs = clients.iter().map(|client| client.batch_execute(ANCESTOR));
        failed = futures::future::join_all(installs).await.iter().any(Result::is_err);
        if failed {
            break;
        }
        clients[0].batch_execute("DROP FUNCTION process_record_seed CASCADE").await.unwrap();
    }
    assert!(failed, "the ancestor's installation never failed");

    let (here, _client) = database(ORDERS).await;
    let store = Arc::new(MemoryStore::new());
    let replicas = (0..4).map(|_| Replica::start(config("i", here.url()), locks(&store)));
    for replica in futures::future::join_all(replicas).await {
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_change_while_nobody_listens_is_not_lost() {
    let (there, client) = database(&format!("{ORDERS}; {ANCESTOR}")).await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    assert!(Listener::start(&there).await.heard().await.is_empty(), "the ancestor lost nothing");

    let (here, client) = database(ORDERS).await;
    let store = Arc::new(MemoryStore::new());
    let first = Replica::start(config("i", here.url()), locks(&store)).await;
    wait_until_covered(&client, "orders").await;
    first.stop().await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    let mut second = Replica::start(config("i", here.url()), locks(&store)).await;
    assert_eq!(second.handle_all(1).await[0].id, "1");
    second.stop().await;
}

/// Remembers the ids it was called with.
struct Recorder {
    seen: Mutex<Vec<String>>,
    called: mpsc::UnboundedSender<()>,
}

#[async_trait::async_trait]
impl Process for Recorder {
    fn id(&self) -> &str {
        "recorder"
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        self.seen.lock().unwrap().push(event.id.clone());
        let _ = self.called.send(());
        Ok(ProcessStatus::success("recorder"))
    }
}

#[tokio::test]
async fn two_inserts_in_one_transaction_keep_their_ids() {
    // The ancestor starts a task for each event that reads the event from a variable all of them share.
    let variable = Arc::new(Mutex::new(String::new()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for id in ["1", "2"] {
        id.clone_into(&mut variable.lock().unwrap());
        let (variable, seen) = (Arc::clone(&variable), Arc::clone(&seen));
        tasks.push(tokio::spawn(async move { seen.lock().unwrap().push(variable.lock().unwrap().clone()) }));
    }
    futures::future::join_all(tasks).await;
    assert_eq!(*seen.lock().unwrap(), ["2", "2"], "the ancestor kept the ids apart");

    let (here, client) = database(ORDERS).await;
    let input =
        PostgresInput::new(config("i", here.url()), locks(&Arc::new(MemoryStore::new()))).await.unwrap();
    let (called, mut calls) = mpsc::unbounded_channel();
    let recorder = Arc::new(Recorder { seen: Mutex::default(), called });
    let orchestrator = Orchestrator::builder()
        .add_input(Arc::new(input))
        .add_process(Arc::clone(&recorder) as Arc<dyn Process>)
        .add_link("i", "recorder")
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(orchestrator.run(stop.clone()));
    wait_until_covered(&client, "orders").await;
    let mut expected = Vec::new();
    for pair in 0..100 {
        let (a, b) = (2 * pair, 2 * pair + 1);
        client
            .batch_execute(&format!(
                "BEGIN; INSERT INTO orders VALUES ({a}); INSERT INTO orders VALUES ({b}); COMMIT"
            ))
            .await
            .unwrap();
        expected.extend([a.to_string(), b.to_string()]);
    }
    for _ in 0..200 {
        tokio::time::timeout(WAIT, calls.recv()).await.unwrap().unwrap();
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    let mut seen = recorder.seen.lock().unwrap().clone();
    seen.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_delete_carries_its_id() {
    let (there, client) = database(&format!("{ORDERS}; INSERT INTO orders VALUES (42); {ANCESTOR}")).await;
    let mut listener = Listener::start(&there).await;
    client.batch_execute("DELETE FROM orders").await.unwrap();
    assert_eq!(listener.heard().await, [r#"{"tbl" : "orders", "id" : 0, "op" : "DELETE"}"#]);

    let (here, client) = database(&format!("{ORDERS}; INSERT INTO orders VALUES (42)")).await;
    let mut replica = Replica::start(config("i", here.url()), locks(&Arc::new(MemoryStore::new()))).await;
    wait_until_covered(&client, "orders").await;
    client.batch_execute("DELETE FROM orders").await.unwrap();
    let event = replica.handle_all(1).await.remove(0);
    assert_eq!((event.operation, event.id.as_str()), (Operation::Delete, "42"));
    replica.stop().await;
}

#[tokio::test]
async fn the_applications_insert_works_on_any_table() {
    const TABLES: &str = "CREATE TABLE no_id (v int); CREATE TABLE uuid_id (id uuid PRIMARY KEY);
                          CREATE TABLE text_id (id text PRIMARY KEY)";
    const INSERTS: [&str; 3] = [
        "INSERT INTO no_id VALUES (1)",
        "INSERT INTO uuid_id VALUES ('00000000-0000-0000-0000-000000000001')",
        "INSERT INTO text_id VALUES ('x')",
    ];
    let (_there, client) = database(&format!("{TABLES}; {ANCESTOR}")).await;
    for insert in INSERTS {
        assert!(client.batch_execute(insert).await.is_err(), "the ancestor let {insert} through");
    }

    let (here, client) = database(TABLES).await;
    let mut replica = Replica::start(config("i", here.url()), locks(&Arc::new(MemoryStore::new()))).await;
    for table in ["no_id", "uuid_id", "text_id"] {
        wait_until_covered(&client, table).await;
    }
    for insert in INSERTS {
        client.batch_execute(insert).await.unwrap();
    }
    let events = replica.handle_all(3).await;
    let seen: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(seen, ["", "00000000-0000-0000-0000-000000000001", "x"]);
    replica.stop().await;
}

#[tokio::test]
async fn a_table_created_after_the_start_is_seen() {
    let (there, client) = database(&format!("{ORDERS}; {ANCESTOR}")).await;
    let mut listener = Listener::start(&there).await;
    client
        .batch_execute("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.batch_execute("INSERT INTO later VALUES (2)").await.unwrap();
    assert!(listener.heard().await.is_empty(), "the ancestor saw the table");

    let (here, client) = database(ORDERS).await;
    let mut replica = Replica::start(config("i", here.url()), locks(&Arc::new(MemoryStore::new()))).await;
    wait_until_covered(&client, "orders").await;
    client.batch_execute("CREATE TABLE later (id int PRIMARY KEY)").await.unwrap();
    wait_until_covered(&client, "later").await;
    client.batch_execute("INSERT INTO later VALUES (2)").await.unwrap();
    assert_eq!(replica.handle_all(1).await[0].location.as_ref(), "later");
    replica.stop().await;
}

#[tokio::test]
async fn five_good_changes_then_garbage_lose_nothing_and_kill_nobody() {
    // The ancestor takes the text of a notification for the change, so garbage ends it, and on every replica.
    let (there, client) = database(&format!("{ORDERS}; {ANCESTOR}")).await;
    let (mut one, mut two) = (Listener::start(&there).await, Listener::start(&there).await);
    client.batch_execute("SELECT pg_notify('seed', 'some bollocks')").await.unwrap();
    for listener in [&mut one, &mut two] {
        let heard = listener.heard().await;
        assert!(dapper_payload::parse(&heard[0]).is_err(), "{heard:?}");
    }

    let (here, client) = database("CREATE TABLE test (id int PRIMARY KEY)").await;
    let mut replica =
        Replica::start(config("test-input", here.url()), locks(&Arc::new(MemoryStore::new()))).await;
    wait_until_covered(&client, "test").await;
    for id in 1..=5 {
        client.batch_execute(&format!("INSERT INTO test VALUES ({id})")).await.unwrap();
    }
    // Five good notifications in the ancestor's form, which carry no committed change, and garbage of many kinds.
    for operation in ["INSERT", "UPDATE", "DELETE", "UPDATE", "INSERT"] {
        let text = format!(r#"{{"tbl": "test", "id": "1", "op": "{operation}"}}"#);
        client.execute("SELECT pg_notify('test_input', $1)", &[&text]).await.unwrap();
    }
    let garbage = ["some bollocks".to_owned(), "{".to_owned(), "[".repeat(7_999), "\u{1}\u{fffd}".to_owned()];
    for text in &garbage {
        client.execute("SELECT pg_notify('test_input', $1)", &[text]).await.unwrap();
    }
    let events = replica.handle_all(5).await;
    let seen: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(seen, ["1", "2", "3", "4", "5"]);
    let mut counted = 0;
    while counted < 9 {
        let error = tokio::time::timeout(WAIT, replica.errors.recv()).await.unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::Garbage);
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("on channel \"test_input\", ignored"), "{text}");
        counted += text.split(' ').next().unwrap().parse::<u32>().unwrap();
        client.execute("SELECT pg_notify('test_input', '')", &[]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if counted < 9 {
            // The next report comes a second after the last.
            tokio::time::sleep(Duration::from_millis(900)).await;
            client.execute("SELECT pg_notify('test_input', '')", &[]).await.unwrap();
        }
    }
    assert_eq!(counted, 9);
    client.batch_execute("INSERT INTO test VALUES (6)").await.unwrap();
    assert_eq!(replica.handle_all(1).await[0].id, "6");
    replica.stop().await;
}

/// One-row inserts per second by eight writers.
async fn rate(database: &Database, offset: u32) -> f64 {
    let duration = Duration::from_millis(1_200);
    let mut writers = Vec::new();
    for writer in 0..8 {
        let client = database.connect().await.unwrap();
        writers.push(tokio::spawn(async move {
            let insert = client.prepare("INSERT INTO orders VALUES ($1)").await.unwrap();
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed() < duration {
                let id = i32::try_from((offset * 8 + writer) * 1_000_000 + count).unwrap();
                client.execute(&insert, &[&id]).await.unwrap();
                count += 1;
            }
            count
        }));
    }
    let mut total = 0;
    for writer in writers {
        total += writer.await.unwrap();
    }
    f64::from(total) / duration.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_are_slowed_down_less_than_by_the_ancestor() {
    let (there, _) = database(&format!("{ORDERS}; {ANCESTOR}")).await;
    let mut listener = Listener::start(&there).await;
    let (here, client) = database(ORDERS).await;
    let mut replica = Replica::start(config("i", here.url()), locks(&Arc::new(MemoryStore::new()))).await;
    wait_until_covered(&client, "orders").await;
    let handling = tokio::spawn(async move {
        loop {
            replica.handle().await;
        }
    });
    let mut ratios = Vec::new();
    for round in 0..5 {
        let theirs = rate(&there, round).await;
        listener.heard().await;
        let ours = rate(&here, round).await;
        ratios.push(ours / theirs);
    }
    handling.abort();
    ratios.sort_by(f64::total_cmp);
    eprintln!("our writers' rate over the ancestor's, five interleaved rounds: {ratios:.2?}");
    assert!(ratios[2] > 1.1, "{ratios:?}");
}
