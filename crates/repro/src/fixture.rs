//! What the scenarios share: a database, dapper running on it in this process, and processes that remember.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use dapper_core::{CancellationToken, Event, InputConfig, Process, ProcessError, ProcessStatus};
use dapper_lock::{LeaseConfig, LockManager, LockStore, MemoryStore};
use dapper_orchestrator::{Orchestrator, RetryPolicy, RunError};
use dapper_postgres::PostgresInput;
use dapper_testkit::Database;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// How long dapper may take for what it must do. The machine may be busy; nobody waits for longer than is needed.
pub(crate) const WAIT: Duration = Duration::from_secs(20);
/// How long nothing may happen before it counts as never. Only the naive versions wait so long.
pub(crate) const NEVER: Duration = Duration::from_secs(2);

/// The table that most scenarios write to.
pub(crate) const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, note text NOT NULL DEFAULT '')";

const INPUT: &str = "repro";

/// A fresh database in which `sql` has run, and a session of the application.
pub(crate) async fn database(sql: &str) -> Result<(Database, Client)> {
    let database = Database::create().await?;
    let client = database.connect().await?;
    client.batch_execute(sql).await?;
    Ok((database, client))
}

/// The configuration of an input on that database.
pub(crate) fn config(url: String) -> InputConfig {
    InputConfig {
        name: INPUT.into(),
        kind: "postgres".into(),
        connection_string: url.into(),
        ..InputConfig::default()
    }
}

/// Locks of a process that has just started, over a store that it may share with others.
pub(crate) fn locks(store: Arc<dyn LockStore>) -> Result<Arc<LockManager>> {
    Ok(Arc::new(LockManager::new(store, LeaseConfig::from_ttl(Duration::from_secs(10))?)))
}

/// Triggers and schema for dapper, so that a scenario begins with everything captured.
pub(crate) async fn install(database: &Database) -> Result<()> {
    dapper_postgres::install(&config(database.url())).await.context("cannot install")?;
    Ok(())
}

/// A replica of dapper in this process: the input, the orchestrator and one process.
pub(crate) struct Dapper {
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Dapper {
    /// Starts one that hands everything to `process`, with locks of its own in memory.
    pub(crate) async fn start(database: &Database, process: Arc<dyn Process>) -> Result<Self> {
        Self::start_with(database, locks(Arc::new(MemoryStore::new()))?, &[process]).await
    }

    pub(crate) async fn start_with(
        database: &Database,
        locks: Arc<LockManager>,
        processes: &[Arc<dyn Process>],
    ) -> Result<Self> {
        let input = PostgresInput::new(config(database.url()), locks).await?;
        let retry = RetryPolicy {
            min_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_millis(200),
            max_attempts: None,
            ..RetryPolicy::default()
        };
        let mut graph =
            Orchestrator::builder().add_input(Arc::new(input)).drain_deadline(Duration::from_secs(2));
        for process in processes {
            let id = process.id().to_owned();
            graph = graph.add_process_with(Arc::clone(process), retry).add_link(INPUT, id);
        }
        let orchestrator = graph.build()?;
        let stop = CancellationToken::new();
        let running = tokio::spawn(orchestrator.run(stop.clone()));
        Ok(Self { stop, running })
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.running.await??;
        Ok(())
    }

    /// Drops everything that it is doing, wherever it is, and waits until that is gone.
    pub(crate) async fn crash(self) {
        self.running.abort();
        // That it was cancelled is what was asked for.
        let _ = self.running.await;
    }
}

/// What to do with an event.
pub(crate) type Behaviour = Box<dyn Fn(&Event, usize) -> Act + Send + Sync>;

/// What a process does with an event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Handles it after a while.
    Handle(Duration),
    /// Fails.
    Fail,
    /// Never comes back.
    Hang,
}

/// A process that remembers what it was called with and what it handled.
pub(crate) struct Recorder {
    id: String,
    behaviour: Behaviour,
    called: Mutex<Vec<Event>>,
    handled: Mutex<Vec<Event>>,
    calls: watch::Sender<usize>,
}

impl Recorder {
    /// One that handles everything at once.
    pub(crate) fn new() -> Arc<Self> {
        Self::that(|_, _| Act::Handle(Duration::ZERO))
    }

    /// One that does as `behaviour` says of an event and how many calls came before.
    pub(crate) fn that(behaviour: impl Fn(&Event, usize) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Self::named("recorder", behaviour)
    }

    pub(crate) fn named(
        id: &str,
        behaviour: impl Fn(&Event, usize) -> Act + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            behaviour: Box::new(behaviour),
            called: Mutex::default(),
            handled: Mutex::default(),
            calls: watch::Sender::new(0),
        })
    }

    /// Every call, in order.
    pub(crate) fn called(&self) -> Vec<Event> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was handled, in order.
    pub(crate) fn handled(&self) -> Vec<Event> {
        self.handled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ids of what was handled.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.handled().into_iter().map(|event| event.id).collect()
    }

    /// Waits until this is true; false when it does not become true in time.
    pub(crate) async fn until(&self, limit: Duration, is_true: impl Fn(&Self) -> bool) -> bool {
        let mut calls = self.calls.subscribe();
        let waited = tokio::time::timeout(limit, async {
            while !is_true(self) {
                // The sender is in `self`.
                if calls.changed().await.is_err() {
                    break;
                }
            }
        });
        waited.await.is_ok()
    }

    /// Waits until each of the ids was handled, for as long as dapper may take, and says how many were not.
    pub(crate) async fn missing(&self, wanted: impl IntoIterator<Item = String>) -> usize {
        let wanted: BTreeSet<String> = wanted.into_iter().collect();
        let missing = |recorder: &Self| {
            let ids: BTreeSet<String> = recorder.ids().into_iter().collect();
            wanted.difference(&ids).count()
        };
        self.until(WAIT, |recorder| missing(recorder) == 0).await;
        missing(self)
    }
}

#[async_trait]
impl Process for Recorder {
    fn id(&self) -> &str {
        &self.id
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        let before = {
            let mut called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
            called.push(event.clone());
            called.len() - 1
        };
        self.calls.send_modify(|calls| *calls += 1);
        match (self.behaviour)(event, before) {
            Act::Handle(after) => tokio::time::sleep(after).await,
            Act::Fail => return Ok(ProcessStatus::fail(&self.id, "as the scenario wants it")),
            Act::Hang => std::future::pending().await,
        }
        self.handled.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
        self.calls.send_modify(|calls| *calls += 1);
        Ok(ProcessStatus::success(&self.id))
    }
}

/// The numbers as ids.
pub(crate) fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

/// How many of the wanted ids are not among those.
pub(crate) fn lost(wanted: &[String], got: &[String]) -> usize {
    let got: BTreeSet<&String> = got.iter().collect();
    wanted.iter().filter(|id| !got.contains(id)).count()
}
