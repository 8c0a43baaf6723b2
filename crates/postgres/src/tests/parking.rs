//! Events that fail: parked, tried again in order, dead letters; and events that programs die of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{CancellationToken, Event, Process, ProcessError, ProcessStatus};
use dapper_lock::MemoryStore;
use dapper_orchestrator::{Orchestrator, RetryPolicy, RunError};
use dapper_testkit::Database;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::support::{WAIT, config, locks, wait_until, wait_until_covered};
use crate::PostgresInput;

type Seen = Arc<Mutex<Vec<(String, Event)>>>;
type Verdict = Arc<Mutex<Box<dyn Fn(&str, &Event) -> bool + Send>>>;

/// What all processes of a test share: what they handled, in order, and which calls fail.
#[derive(Clone)]
struct Stage {
    /// Process and event of each call that succeeded.
    handled: Seen,
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
    fn new() -> Self {
        let fails: Verdict = Arc::new(Mutex::new(Box::new(|_, _| false)));
        Self { handled: Seen::default(), called: Seen::default(), fails }
    }

    fn fail(&self, fails: impl Fn(&str, &Event) -> bool + Send + 'static) {
        *self.fails.lock().unwrap() = Box::new(fails);
    }

    fn count(&self) -> usize {
        self.handled.lock().unwrap().len()
    }

    /// How often one process was handed each change of one key, in the order in which they were handled first; with the
    /// attempt of each.
    fn of(&self, process: &str, id: &str) -> Vec<u32> {
        let handled = self.handled.lock().unwrap();
        let of: Vec<&Event> = handled
            .iter()
            .filter(|(by, event)| by == process && event.id == id)
            .map(|(_, event)| event)
            .collect();
        assert!(of.is_sorted_by_key(|event| event.captured_at.clone()), "{process} {id}: {of:?}");
        of.iter().map(|event| event.attempt.unwrap_or(0)).collect()
    }

    async fn wait_for(&self, count: usize) {
        let deadline = tokio::time::Instant::now() + WAIT;
        while self.count() < count {
            assert!(tokio::time::Instant::now() < deadline, "{} of {count} handled", self.count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(WAIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

struct Shop {
    database: Database,
    client: Client,
    store: Arc<MemoryStore>,
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        min_backoff: Duration::from_millis(5),
        max_backoff: Duration::from_millis(100),
        max_attempts: None,
        ..RetryPolicy::default()
    }
}

impl Shop {
    async fn new() -> Self {
        let database = Database::create().await.unwrap();
        let client = database.connect().await.unwrap();
        client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY, v int)").await.unwrap();
        Self { database, client, store: Arc::new(MemoryStore::new()) }
    }

    /// A replica whose processes are `links`, from `i` or from each other.
    async fn run(&self, stage: &Stage, links: &[(&str, &'static str)], policy: RetryPolicy) -> Running {
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
