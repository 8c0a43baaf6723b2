//! Events that fail: parked, tried again in order, dead letters; and events that programs die of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{
    CancellationToken, Event, EventSink, Fate, Operation, Parcel, Process, ProcessError, ProcessStatus,
    Settle, Validity,
};
use dapper_lock::MemoryStore;
use dapper_orchestrator::{Orchestrator, RetryPolicy, RunError};
use dapper_testkit::Database;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::support::{Fixture, WAIT, config, locks, seal, wait_until, wait_until_covered};
use crate::parking::{May, Out, Parked, ParkingStatements};
use crate::session::Session;
use crate::{
    DeadLetterFilter, PostgresError, PostgresInput, Replay, Replayed, dead_letters, discard_dead_letters,
    replay, retry_dead_letters,
};

type Seen = Arc<Mutex<Vec<(String, Event)>>>;
type Verdict = Arc<Mutex<Box<dyn Fn(&str, &Event) -> bool + Send>>>;

/// What all processes of a test share: what they handled, in order, and which calls fail.
#[derive(Clone)]
pub(super) struct Stage {
    /// Process and event of each call that succeeded.
    pub(super) handled: Seen,
    /// Of each call.
    called: Seen,
    fails: Verdict,
}

struct Staged {
    id: &'static str,
    stage: Stage,
}

#[async_trait]
impl Process for Staged {
    fn id(&self) -> &str {
        self.id
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        let entry = (self.id.to_owned(), event.clone());
        self.stage.called.lock().unwrap().push(entry.clone());
        if (self.stage.fails.lock().unwrap())(self.id, event) {
            return Ok(ProcessStatus::fail(self.id, "503 Service Unavailable"));
        }
        self.stage.handled.lock().unwrap().push(entry);
        Ok(ProcessStatus::success(self.id))
    }
}

impl Stage {
    pub(super) fn new() -> Self {
        let fails: Verdict = Arc::new(Mutex::new(Box::new(|_, _| false)));
        Self { handled: Seen::default(), called: Seen::default(), fails }
    }

    pub(super) fn fail(&self, fails: impl Fn(&str, &Event) -> bool + Send + 'static) {
        *self.fails.lock().unwrap() = Box::new(fails);
    }

    pub(super) fn count(&self) -> usize {
        self.handled.lock().unwrap().len()
    }

    /// How often one process was handed each change of one key, in the order in which they were handled first; with the
    /// attempt of each.
    pub(super) fn of(&self, process: &str, id: &str) -> Vec<u32> {
        let handled = self.handled.lock().unwrap();
        let of: Vec<&Event> = handled
            .iter()
            .filter(|(by, event)| by == process && event.id == id)
            .map(|(_, event)| event)
            .collect();
        assert!(of.is_sorted_by_key(|event| event.captured_at.clone()), "{process} {id}: {of:?}");
        of.iter().map(|event| event.attempt.unwrap_or(0)).collect()
    }

    pub(super) async fn wait_for(&self, count: usize) {
        let deadline = tokio::time::Instant::now() + WAIT;
        while self.count() < count {
            assert!(tokio::time::Instant::now() < deadline, "{} of {count} handled", self.count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(super) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// As if the program had died: nothing more is done, by anybody.
    pub(super) async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(WAIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

pub(super) struct Shop {
    pub(super) database: Database,
    pub(super) client: Client,
    pub(super) store: Arc<MemoryStore>,
}

pub(super) fn quick() -> RetryPolicy {
    RetryPolicy {
        min_backoff: Duration::from_millis(5),
        max_backoff: Duration::from_millis(100),
        max_attempts: None,
        ..RetryPolicy::default()
    }
}

impl Shop {
    pub(super) async fn new() -> Self {
        let database = Database::create().await.unwrap();
        let client = database.connect().await.unwrap();
        client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY, v int)").await.unwrap();
        Self { database, client, store: Arc::new(MemoryStore::new()) }
    }

    /// A replica whose processes are `links`, from `i` or from each other.
    pub(super) async fn run(
        &self,
        stage: &Stage,
        links: &[(&str, &'static str)],
        policy: RetryPolicy,
    ) -> Running {
        let config = config("i", self.database.url());
        let input = PostgresInput::new(config, locks(&self.store)).await.unwrap();
        let mut builder = Orchestrator::builder().add_input(Arc::new(input));
        let mut processes: BTreeMap<&'static str, ()> = BTreeMap::new();
        for &(from, to) in links {
            if processes.insert(to, ()).is_none() {
                builder = builder.add_process_with(Arc::new(Staged { id: to, stage: stage.clone() }), policy);
            }
            builder = builder.add_link(from, to);
        }
        let orchestrator = builder.build().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(orchestrator.run(stop.clone()));
        wait_until_covered(&self.client, "orders").await;
        Running { stop, task }
    }

    async fn write(&self, id: i64, v: i64) {
        self.client
            .execute(
                "INSERT INTO orders VALUES ($1, $2::int8::int) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
                &[&id, &v],
            )
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_waits_in_the_database_and_the_others_go_on_far_beyond_any_bound() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    stage.fail(|_, event| event.id == "1");
    let running = shop.run(&stage, &[("i", "p")], quick()).await;
    for v in 0..50 {
        shop.write(1, v).await;
    }
    wait_until(&shop.client, "SELECT count(*) = 50 FROM dapper_i.parked").await;
    for round in 0..30 {
        let sql = format!(
            "INSERT INTO orders SELECT n, {round} FROM generate_series({0}, {0} + 999) n",
            1_000 * (round + 1)
        );
        shop.client.batch_execute(&sql).await.unwrap();
    }
    stage.wait_for(30_000).await;
    assert!(stage.of("p", "1").is_empty());
    wait_until(&shop.client, "SELECT claimed IS NULL FROM dapper_i.cursors").await;
    stage.fail(|_, _| false);
    stage.wait_for(30_050).await;
    let of = stage.of("p", "1");
    assert_eq!(of.len(), 50);
    assert!(of[0] > 3 && of[1..].iter().all(|attempt| *attempt == 1), "{of:?}");
    wait_until(&shop.client, "SELECT count(*) = 0 FROM dapper_i.parked").await;
    // From here on the key goes the short way again.
    shop.write(1, 50).await;
    stage.wait_for(30_051).await;
    assert_eq!(stage.called.lock().unwrap().last().unwrap().1.attempt, Some(1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_it_is_a_dead_letter_and_its_key_goes_on() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    stage.fail(|process, event| process == "p" && event.operation == Operation::Create && event.id == "1");
    let policy = RetryPolicy { max_attempts: Some(5), ..quick() };
    let running = shop.run(&stage, &[("i", "p"), ("i", "other")], policy).await;
    for v in 0..10 {
        shop.write(1, v).await;
    }
    stage.wait_for(19).await;
    running.stop().await;
    // The other process saw all of it once, unmarked, and this one all but the first.
    assert_eq!((stage.of("other", "1"), stage.of("p", "1")), (vec![1; 10], vec![1; 9]));
    let tried = stage
        .called
        .lock()
        .unwrap()
        .iter()
        .filter(|(by, _)| by == "p")
        .map(|(_, event)| event.attempt)
        .collect::<Vec<_>>();
    assert_eq!(tried[..5], (1..=5).map(Some).collect::<Vec<_>>());
    let sql = "SELECT process, location, id, tries, attempt, error FROM dapper_i.dead_letters";
    let dead = shop.client.query_one(sql, &[]).await.unwrap();
    assert_eq!((dead.get(0), dead.get(1), dead.get(2)), ("p", "orders", "1"));
    assert_eq!((dead.get(3), dead.get(4), dead.get(5)), (5, 5, "503 Service Unavailable"));
    let parked = shop.client.query_one("SELECT count(*) FROM dapper_i.parked", &[]).await.unwrap();
    assert_eq!(parked.get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_a_process_gets_an_event_when_that_has_handled_it() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    stage.fail(|process, event| process == "a" && event.id == "1" || process == "b" && event.id == "2");
    let running = shop.run(&stage, &[("i", "a"), ("a", "b"), ("b", "c")], quick()).await;
    for v in 0..5 {
        for id in 1..=3 {
            shop.write(id, v).await;
        }
    }
    wait_until(&shop.client, "SELECT count(*) = 10 FROM dapper_i.parked").await;
    wait_until(&shop.client, "SELECT claimed IS NULL FROM dapper_i.cursors").await;
    let counts =
        |stage: &Stage| ["a", "b", "c"].map(|process| ["1", "2", "3"].map(|id| stage.of(process, id).len()));
    assert_eq!(counts(&stage), [[0, 5, 5], [0, 0, 5], [0, 0, 5]]);
    stage.fail(|process, event| process == "b" && event.id == "1");
    wait_until(&shop.client, "SELECT count(*) = 5 AND min(process) = 'b' FROM dapper_i.parked").await;
    assert_eq!(counts(&stage), [[5, 5, 5], [0, 5, 5], [0, 5, 5]], "parked at the next one");
    stage.fail(|_, _| false);
    stage.wait_for(45).await;
    running.stop().await;
    assert_eq!(counts(&stage), [[5; 3]; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_several_before_it_waits_for_those_that_were_resumed() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    stage.fail(|process, _| process == "a" || process == "b");
    let policy = RetryPolicy { max_attempts: Some(2), ..quick() };
    let links = [("i", "a"), ("i", "b"), ("a", "join"), ("b", "join"), ("join", "last")];
    let running = shop.run(&stage, &links, policy).await;
    shop.write(1, 0).await;
    wait_until(&shop.client, "SELECT count(*) = 2 FROM dapper_i.dead_letters").await;
    running.stop().await;
    stage.fail(|_, _| false);
    // Both are parked again, and both may be done at the same time.
    shop.client
        .batch_execute(
            "WITH d AS (DELETE FROM dapper_i.dead_letters RETURNING *)
             INSERT INTO dapper_i.parked (event_id, process, lane, seq, position, location, id, event, attempt, tries,
                                          crashes_left, suspicion, head, ready_at)
             SELECT event_id, process, lane, seq, position, location, id, event, attempt, 0, 3, 0, true, now() FROM d",
        )
        .await
        .unwrap();
    let running = shop.run(&stage, &links, policy).await;
    stage.wait_for(4).await;
    running.stop().await;
    let order: Vec<String> = stage.handled.lock().unwrap().iter().map(|(by, _)| by.clone()).collect();
    assert_eq!((order[2..].join(" "), order.len()), ("join last".to_owned(), 4), "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_next_keeps_the_order_of_what_is_parked_and_parks_nothing_twice() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    stage.fail(|_, event| ["1", "2", "3"].contains(&event.id.as_str()));
    for round in 0..6 {
        let running = shop.run(&stage, &[("i", "p")], quick()).await;
        for v in 0..20 {
            for id in 1..=6 {
                shop.write(id, round * 20 + v).await;
            }
        }
        // Anywhere between parking and advancing.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
        running.abort().await;
    }
    let running = shop.run(&stage, &[("i", "p")], quick()).await;
    wait_until(&shop.client, "SELECT count(*) = 360 FROM dapper_i.parked").await;
    stage.fail(|_, _| false);
    wait_until(&shop.client, "SELECT count(*) = 0 FROM dapper_i.parked").await;
    running.stop().await;
    nothing_is_lost_repeated_unmarked_or_out_of_order(&stage, &["p"], 6, 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_parks_what_fails_and_nothing_is_repeated() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    let slow = RetryPolicy {
        min_backoff: Duration::from_millis(900),
        max_backoff: Duration::from_millis(900),
        quick_attempts: 100,
        ..quick()
    };
    stage.fail(|_, event| event.id == "1");
    let running = shop.run(&stage, &[("i", "p")], slow).await;
    for id in [1, 1, 2, 3] {
        shop.write(id, 0).await;
    }
    stage.wait_for(2).await;
    running.stop().await;
    stage.fail(|_, _| false);
    let running = shop.run(&stage, &[("i", "p")], slow).await;
    stage.wait_for(4).await;
    running.stop().await;
    assert_eq!((stage.of("p", "2"), stage.of("p", "3")), (vec![1], vec![1]));
    let first = stage.of("p", "1");
    assert!(first.len() == 2 && first[0] > 1 && first[1] == 1, "{first:?}");
}

/// Of each process and key: nothing is lost, every repeat is marked, and the first time of each event is in order.
fn nothing_is_lost_repeated_unmarked_or_out_of_order(
    stage: &Stage,
    processes: &[&str],
    ids: i64,
    each: usize,
) {
    let handled = stage.handled.lock().unwrap().clone();
    for (process, id) in
        processes.iter().flat_map(|process| (1..=ids).map(move |id| (process, id.to_string())))
    {
        let of = handled.iter().filter(|(by, event)| by == process && event.id == id).map(|(_, event)| event);
        let (mut seen, mut times) = (std::collections::HashSet::new(), Vec::new());
        for event in of {
            if seen.insert(event.event_id.clone()) {
                times.push(event.captured_at.clone());
            } else {
                assert!(event.attempt > Some(1), "{process} {id}: an unmarked repeat: {event:?}");
            }
        }
        assert_eq!(seen.len(), each, "{process} {id}: lost");
        assert!(times.is_sorted(), "{process} {id}: out of order: {times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_and_whoever_dies_each_process_gets_each_key_whole_and_in_order() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    // Two in five calls.
    stage.fail(|_, _| fastrand::u8(0..5) < 2);
    let links = [("i", "a"), ("a", "b"), ("i", "c")];
    // The deaths are nobody's fault.
    let policy = RetryPolicy { max_crashes: 1_000, ..quick() };
    for round in 0..8 {
        let running = shop.run(&stage, &links, policy).await;
        for v in 0..10 {
            for id in 1..=5 {
                shop.write(id, round * 10 + v).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        running.abort().await;
    }
    let running = shop.run(&stage, &links, policy).await;
    let all = 3 * 5 * 80;
    let whole = |stage: &Stage| {
        let handled = stage.handled.lock().unwrap();
        handled
            .iter()
            .map(|(by, event)| (by, &event.event_id))
            .collect::<std::collections::HashSet<_>>()
            .len()
            == all
    };
    let deadline = tokio::time::Instant::now() + 2 * WAIT;
    while !whole(&stage) {
        if tokio::time::Instant::now() > deadline {
            let sql = "SELECT (SELECT count(*) FROM dapper_i.dead_letters)::text, (SELECT claimed::text FROM dapper_i.cursors),
                              (SELECT string_agg(left(p::text, 200), E'\n') FROM (SELECT * FROM dapper_i.parked LIMIT 20) p)";
            let row = shop.client.query_one(sql, &[]).await.unwrap();
            let text = |column| row.get::<_, Option<&str>>(column).unwrap_or("none").to_owned();
            panic!("lost: {} dead, claimed {}, parked {}", text(0), text(1), text(2));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
    nothing_is_lost_repeated_unmarked_or_out_of_order(&stage, &["a", "b", "c"], 5, 80);
}

struct Always;

impl Validity for Always {
    fn is_valid(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_holder_that_was_replaced_parks_nothing_takes_nothing_back_and_buries_nothing() {
    let fixture = Fixture::new("CREATE TABLE orders (id bigint PRIMARY KEY)").await;
    let schema = &fixture.options.names.schema;
    let session = Session::open(&fixture.options.connection, "zombie").await.unwrap();
    let cursor = seal(&session, schema, 3).await.unwrap().cursor;
    let (deliveries, mut resumed) = mpsc::channel(8);
    let sink = EventSink::new(deliveries, mpsc::channel(8).0);
    let validity: Arc<dyn Validity> = Arc::new(Always);
    let out = Out { sink: &sink, validity: &validity };
    let statements = ParkingStatements::prepare(session.client(), schema).await.unwrap();
    let mut parked = Parked::new(statements, Arc::default());
    let found = parked.find(session.client()).await.unwrap();
    parked.take_over(session.client(), &cursor, &found).await.unwrap();
    let parking = parked.of_change_sets(&[(7, 1), (8, 3)]);
    let parcel = |id: &str, fate: Fate| {
        let mut event = Event::new("orders", Operation::Create, id, "orders_input");
        event.event_id = Some(format!("{id}/0"));
        let settle = Settle::new(|| ());
        Parcel { process: "p".into(), event, index: 2, max_crashes: 3, fate, settle }
    };
    let (tries, error) = (3, "503".to_owned());
    let retry = Fate::Retry { tries, after: Duration::ZERO, error: error.clone() };
    let may = May::Claim { idle: true };
    parking.store(parcel("1", retry.clone()));
    parked.serve(session.client(), &cursor, &out, May::Nothing).await.unwrap();
    let rows = "SELECT string_agg(format('%s %s %s %s %s', id, seq, position, tries, claimed IS NOT NULL), ',' ORDER BY id)
                  FROM dapper_orders_input.parked";
    let state = async || fixture.client.query_one(rows, &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(state().await, "1 8 1 3 f");

    // The takeover.
    seal(&fixture.session, schema, 4).await.unwrap();
    let refused = |outcome: Result<_, PostgresError>| {
        let fenced = matches!(outcome, Err(PostgresError::Fenced { sealed: 4, ours: 3 }));
        assert!(fenced, "{:?}", outcome.map(|_: Vec<crate::parking::Killer>| ()));
    };
    refused(parked.serve(session.client(), &cursor, &out, may).await);
    parking.store(parcel("2", retry));
    refused(parked.serve(session.client(), &cursor, &out, may).await);
    parking.store(parcel("3", Fate::Dead { tries, error }));
    refused(parked.serve(session.client(), &cursor, &out, may).await);
    assert_eq!(state().await, "1 8 1 3 f");
    assert!(resumed.try_recv().is_err(), "nothing is handed out");
    let dead =
        fixture.client.query_one("SELECT count(*) FROM dapper_orders_input.dead_letters", &[]).await.unwrap();
    assert_eq!(dead.get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_retried_and_discarded_while_a_replica_runs() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    stage.fail(|_, event| event.id != "3");
    let policy = RetryPolicy { max_attempts: Some(2), ..quick() };
    let running = shop.run(&stage, &[("i", "p")], policy).await;
    for id in [1, 1, 2, 3] {
        shop.write(id, 0).await;
    }
    wait_until(&shop.client, "SELECT count(*) = 3 FROM dapper_i.dead_letters").await;
    let config = config("i", shop.database.url());
    let all = DeadLetterFilter::default();
    let listed = dead_letters(&config, &all, 2).await.unwrap();
    assert_eq!((listed.letters.len(), listed.total), (2, 3));
    assert_eq!((listed.letters[0].location.as_str(), listed.letters[0].tries), ("orders", 2));
    let findings = crate::diagnose(&config).await.unwrap();
    let of = |topic: &str| findings.iter().find(|finding| finding.topic == topic).unwrap().clone();
    assert_eq!(
        (of("parked").message.as_str(), of("dead letters").severity.as_str()),
        ("no event is", "problem")
    );
    assert!(of("dead letters").message.starts_with("3: "), "{findings:?}");
    let count = async |filter: DeadLetterFilter| dead_letters(&config, &filter, 9).await.unwrap().total;
    let some = |text: &str| Some(text.to_owned());
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(count(DeadLetterFilter { key: some("1"), ..all.clone() }).await, 2);
    assert_eq!(
        count(DeadLetterFilter { error: some("service unav"), newer_than: hour, ..all.clone() }).await,
        3
    );
    assert_eq!(count(DeadLetterFilter { older_than: hour, ..all.clone() }).await, 0);
    assert_eq!(count(DeadLetterFilter { table: some("customers"), ..all.clone() }).await, 0);
    assert_eq!(
        count(DeadLetterFilter { process: some("p"), number: Some(listed.letters[1].number), ..all.clone() })
            .await,
        1
    );

    let discarded =
        discard_dead_letters(&config, &DeadLetterFilter { key: some("2"), ..all.clone() }).await.unwrap();
    stage.fail(|_, _| false);
    let retried = retry_dead_letters(&config, &all).await.unwrap();
    assert_eq!((discarded, retried), (1, 2));
    stage.wait_for(3).await;
    wait_until(&shop.client, "SELECT count(*) = 0 FROM dapper_i.parked").await;
    assert_eq!((stage.of("p", "1"), count(all).await), (vec![3, 3], 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_can_be_replayed_in_order_and_marked_and_what_is_not_is_refused() {
    let shop = Shop::new().await;
    let stage = Stage::new();
    let running = shop.run(&stage, &[("i", "a"), ("a", "b")], quick()).await;
    for v in 0..5 {
        for id in 1..=3 {
            shop.write(id, v).await;
        }
    }
    shop.client.batch_execute("CREATE TABLE customers (id int PRIMARY KEY)").await.unwrap();
    stage.wait_for(30).await;
    wait_until(&shop.client, "SELECT claimed IS NULL FROM dapper_i.cursors").await;
    let config = config("i", shop.database.url());
    let since = "2020-01-01T00:00:00Z".parse().unwrap();
    let mut asked = Replay {
        since,
        table: Some("orders".into()),
        key: Some("2".into()),
        processes: vec!["a".into()],
        dry_run: true,
    };
    assert_eq!(replay(&config, &asked).await.unwrap(), Replayed { events: 5, parked: 0 });
    asked.dry_run = false;
    assert_eq!(replay(&config, &asked).await.unwrap(), Replayed { events: 5, parked: 5 });
    stage.wait_for(40).await;
    wait_until(&shop.client, "SELECT count(*) = 0 FROM dapper_i.parked").await;
    running.stop().await;
    let handled = stage.handled.lock().unwrap().clone();
    for process in ["a", "b"] {
        let of: Vec<&Event> = handled
            .iter()
            .filter(|(by, event)| by == process && event.id == "2")
            .map(|(_, event)| event)
            .collect();
        let (first, again) = of.split_at(5);
        assert!(first.iter().all(|event| !event.replay && event.attempt == Some(1)));
        assert!(again.iter().all(|event| event.replay && event.attempt == Some(2)), "{again:?}");
        let ids = |events: &[&Event]| events.iter().map(|event| event.event_id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(first), ids(again));
    }
    assert!(
        replay(&config, &Replay { table: Some("customers".into()), key: None, ..asked.clone() })
            .await
            .unwrap()
            == Replayed::default()
    );
    shop.client
        .batch_execute("UPDATE dapper_i.cursors SET emptied_until = '2024-05-06T07:08:09Z'")
        .await
        .unwrap();
    let refused = replay(&config, &asked).await.unwrap_err().to_string();
    assert!(refused.contains("2024-05-06T07:08:09"), "{refused}");
    let later = Replay { since: "2024-05-06T07:08:10Z".parse().unwrap(), dry_run: true, ..asked };
    assert_eq!(replay(&config, &later).await.unwrap().events, 5);
}

/// How many pages a statement touches.
async fn pages(client: &Client, statement: &str, arguments: &str) -> u64 {
    let statement = statement.replace("{schema}", "dapper_orders_input");
    let prepare = format!("DEALLOCATE ALL; PREPARE s AS {statement}");
    client.batch_execute(&prepare).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE s {arguments}");
    let rows = client.simple_query(&explain).await.unwrap();
    let text = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    let plan: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    let plan = &plan[0]["Plan"];
    plan["Shared Hit Blocks"].as_u64().unwrap() + plan["Shared Read Blocks"].as_u64().unwrap()
}

#[tokio::test]
async fn no_step_costs_more_because_much_is_parked() {
    use crate::parking::sql;
    let fixture = Fixture::new("CREATE TABLE orders (id bigint PRIMARY KEY)").await;
    // One key with many events, and many keys with one.
    fixture
        .execute(
            "INSERT INTO dapper_orders_input.parked (event_id, process, lane, seq, position, location, id, event, attempt,
                                                     tries, crashes_left, suspicion, head, ready_at)
             SELECT n || '/0', 'p', CASE WHEN n <= 50000 THEN 1 ELSE n END, n, 0, 'orders', n, '{}', 1, 1, 3, 0,
                    n = 1 OR n > 50000, now() + n * interval '1 second' FROM generate_series(1, 100000) n",
        )
        .await;
    let client = fixture.session.client();
    for (name, statement, arguments) in [
        ("unhead", sql::UNHEAD, "('{1,60000}')"),
        ("head", sql::HEAD, "('{1,60000}')"),
        ("empty", sql::EMPTY, "('{1,60000,7}')"),
        ("look", sql::LOOK, ""),
        ("claim", sql::CLAIM, "(1, 64)"),
        ("suspects", sql::CLAIM_SUSPECTS, "(1, 64)"),
        ("suspect", sql::SUSPECT, ""),
        ("remove", sql::REMOVE, "('{1}')"),
        ("stored", sql::STORED, "('{70000/0}')"),
    ] {
        let pages = pages(client, statement, arguments).await;
        assert!(pages < 100, "{name} touches {pages} pages");
    }
}
