//! Connections that end at the worst moment, and servers that say no for a while: the orchestrator starts the input again,
//! nothing is lost, and what may be a repeat says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{CancellationToken, Event, Process, ProcessError, ProcessStatus};
use dapper_lock::MemoryStore;
use dapper_orchestrator::Orchestrator;
use dapper_testkit::{Database, Faults, Flow, Proxy};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::support::{Replica, WAIT, config, locks, wait_until_covered};
use crate::PostgresInput;

const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY)";

/// An id and the attempt with which it came.
type Seen = Vec<(String, Option<u32>)>;

fn note(seen: &mut Seen, events: impl IntoIterator<Item = Event>) {
    seen.extend(events.into_iter().map(|event| (event.id, event.attempt)));
}

fn assert_complete_and_marked(seen: &Seen, ids: impl IntoIterator<Item = u32>) {
    let mut attempts: BTreeMap<&str, Vec<Option<u32>>> = BTreeMap::new();
    for (id, attempt) in seen {
        attempts.entry(id).or_default().push(*attempt);
    }
    for id in ids {
        let attempts = attempts.get(id.to_string().as_str()).unwrap_or_else(|| panic!("{id} is lost"));
        assert!(
            attempts[1..].iter().all(|attempt| *attempt > Some(1)),
            "{id} came again unmarked: {attempts:?}"
        );
    }
}

/// How many bytes more of the server's answers arrive from round to round before the connection is gone: no answer is
/// shorter, so that each gets lost in some round, that to the claim and that to the advance among them.
const STEP_BYTES: u64 = 23;
/// What is handled and not followed by the end of the connection after this long was not cut.
const CALM: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_connection_cut_after_any_answer_loses_nothing_and_marks_what_comes_again() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(ORDERS).await.unwrap();
    let proxy = Proxy::start(database.server().address()).await.unwrap();
    let proxied = || config("i", database.url_via(proxy.address()));
    let store = Arc::new(MemoryStore::new());
    crate::install(&config("i", database.url())).await.unwrap();
    let (mut seen, mut written, mut cut) = (Seen::new(), 0, 0);
    for round in 0.. {
        let mut replica = Replica::start(proxied(), locks(&store)).await;
        written += 1;
        insert(&client, written).await;
        while !seen.iter().any(|(id, _)| *id == written.to_string()) {
            note(&mut seen, replica.handle().await);
        }
        proxy.set(Faults::to_client(Flow::cut_after(round * STEP_BYTES)));
        written += 1;
        insert(&client, written).await;
        let ended = take_until_the_end(&mut replica, &mut seen).await;
        proxy.set(Faults::NONE);
        cut += u32::from(ended);
        if !ended {
            // That many bytes are more than all answers of a round.
            replica.stop().await;
            break;
        }
    }
    assert!(cut > 10, "only {cut} connections were cut");
    let mut last = Replica::start(config("i", database.url()), locks(&store)).await;
    written += 1;
    insert(&client, written).await;
    while !seen.iter().any(|(id, _)| *id == written.to_string()) {
        note(&mut seen, last.handle().await);
    }
    last.stop().await;
    assert_complete_and_marked(&seen, 1..=written);
}

async fn insert(client: &Client, id: u32) {
    client.execute("INSERT INTO orders VALUES ($1)", &[&i64::from(id)]).await.unwrap();
}

/// Handles what comes until the input ends; false when it is calm instead.
async fn take_until_the_end(replica: &mut Replica, seen: &mut Seen) -> bool {
    loop {
        tokio::select! {
            delivery = replica.deliveries.recv() => {
                // Without a delivery the input has ended, too.
                let Some(delivery) = delivery else { return true };
                for (event, acknowledgement) in delivery.into_events() {
                    note(seen, [event]);
                    acknowledgement.handled();
                }
            }
            ended = &mut replica.task => {
                ended.unwrap().expect_err("an input that is not stopped ends with an error");
                return true;
            }
            () = tokio::time::sleep(CALM) => return false,
        }
    }
}

/// Remembers what it was called with.
#[derive(Default)]
struct Recorder {
    seen: Mutex<Seen>,
    calls: watch::Sender<usize>,
}

#[async_trait]
impl Process for Recorder {
    fn id(&self) -> &str {
        "recorder"
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        note(&mut self.seen.lock().unwrap(), [event.clone()]);
        self.calls.send_modify(|calls| *calls += 1);
        Ok(ProcessStatus::success("recorder"))
    }
}

impl Recorder {
    async fn saw(&self, id: u32) {
        let mut calls = self.calls.subscribe();
        let seen =
            calls.wait_for(|_| self.seen.lock().unwrap().iter().any(|(seen, _)| *seen == id.to_string()));
        tokio::time::timeout(WAIT, seen).await.unwrap_or_else(|_| panic!("{id} was never handled")).unwrap();
    }
}

/// An input under an orchestrator, which starts it again whenever it fails.
struct Supervised {
    recorder: Arc<Recorder>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), dapper_orchestrator::RunError>>,
}

impl Supervised {
    async fn start(url: String) -> Self {
        let input = PostgresInput::new(config("i", url), locks(&Arc::new(MemoryStore::new()))).await.unwrap();
        let recorder = Arc::new(Recorder::default());
        let orchestrator = Orchestrator::builder()
            .add_input(Arc::new(input))
            .add_process(Arc::clone(&recorder) as Arc<dyn Process>)
            .add_link("i", "recorder")
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(orchestrator.run(stop.clone()));
        Self { recorder, stop, running }
    }

    async fn stop(self) -> Seen {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.recorder.seen.lock().unwrap().clone()
    }
}

async fn supervised(url: impl FnOnce(&Database) -> String) -> (Database, Client, Supervised) {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(ORDERS).await.unwrap();
    let supervised = Supervised::start(url(&database)).await;
    wait_until_covered(&client, "orders").await;
    insert(&client, 1).await;
    supervised.recorder.saw(1).await;
    (database, client, supervised)
}

const SESSIONS: &str = "FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND backend_type = 'client backend'";

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_statements_lose_nothing() {
    let (_database, client, supervised) = supervised(Database::url).await;
    let mut cancelled = 0;
    for id in 2..=100 {
        insert(&client, id).await;
        // Right after a commit the input is busy with it.
        let sql =
            format!("SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) {SESSIONS} AND state = 'active'");
        cancelled += client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0);
    }
    supervised.recorder.saw(100).await;
    let seen = supervised.stop().await;
    assert!(cancelled > 0, "no statement was cancelled");
    assert_complete_and_marked(&seen, 1..=100);
}

/// Ends all sessions but the caller's.
async fn end_sessions(client: &Client) {
    client.query(&format!("SELECT pg_terminate_backend(pid, 5000) {SESSIONS}"), &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_log_in_for_a_while_is_waited_for() {
    let (role, password) = (format!("login_{}", std::process::id()), "canary");
    let created = role.clone();
    let admin = Database::create().await.unwrap();
    let client = admin.connect().await.unwrap();
    client
        .batch_execute(&format!("CREATE ROLE {created} LOGIN SUPERUSER PASSWORD '{password}'"))
        .await
        .unwrap();
    let (_database, client, supervised) = supervised(|database| database.url_as(&role, password)).await;
    client.batch_execute(&format!("ALTER ROLE {role} NOLOGIN")).await.unwrap();
    end_sessions(&client).await;
    insert(&client, 2).await;
    tokio::time::sleep(CALM).await;
    assert_eq!(supervised.recorder.seen.lock().unwrap().len(), 1);
    client.batch_execute(&format!("ALTER ROLE {role} LOGIN")).await.unwrap();
    supervised.recorder.saw(2).await;
    assert_complete_and_marked(&supervised.stop().await, 1..=2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_only_reads_for_a_while_is_waited_for() {
    let (database, client, supervised) = supervised(Database::url).await;
    let name = database.name();
    client
        .batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .await
        .unwrap();
    end_sessions(&client).await;
    // This session began before.
    insert(&client, 2).await;
    tokio::time::sleep(CALM).await;
    client
        .batch_execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"))
        .await
        .unwrap();
    supervised.recorder.saw(2).await;
    assert_complete_and_marked(&supervised.stop().await, 1..=2);
}
