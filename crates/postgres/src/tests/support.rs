//! A database with tables and an installed input, and a reader that can be driven by hand.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::{CancellationToken, Delivery, Event, EventSink, InputConfig, InputError};
use dapper_lock::{FencingToken, LeaseConfig, LockManager, LockStore, MemoryStore};
use dapper_testkit::Database;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::coverage::{self, Coverage, Mode, Pauses};
use crate::cursor::{Cursor, CursorStatements, Grant, Sealed};
use crate::events::Stamp;
use crate::layout;
use crate::options::Options;
use crate::progress::{Chunk, Position, Progress};
use crate::reader::{Batch, Limits, Reader};
use crate::session::Session;
use crate::snapshot::Snapshot;
use crate::{PostgresError, PostgresInput};

pub(crate) const WAIT: Duration = Duration::from_secs(20);

pub(crate) fn config(name: &str, url: String) -> InputConfig {
    InputConfig {
        name: name.into(),
        kind: "postgres".into(),
        connection_string: url.into(),
        ..InputConfig::default()
    }
}

/// An input that is installed and read by hand.
pub(crate) struct Fixture {
    pub(crate) database: Database,
    pub(crate) options: Options,
    pub(crate) session: Session,
    pub(crate) client: Client,
    pub(crate) progress: Progress,
    reader: Reader,
}

impl Fixture {
    /// A fresh database in which `sql` ran before the input was installed.
    pub(crate) async fn new(sql: &str) -> Self {
        Self::with(sql, |_| {}).await
    }

    pub(crate) async fn with(sql: &str, change: impl FnOnce(&mut InputConfig)) -> Self {
        let database = Database::create().await.unwrap();
        let client = database.connect().await.unwrap();
        client.batch_execute(sql).await.unwrap();
        let mut config = config("orders-input", database.url());
        change(&mut config);
        Self::install(database, client, &config).await
    }

    pub(crate) async fn install(database: Database, client: Client, config: &InputConfig) -> Self {
        let options = Options::parse(config).unwrap();
        let session = Session::open(&options.connection, "test").await.unwrap();
        layout::install(&session, &options.names).await.unwrap();
        let coverage = coverage::reconcile(session.client(), &options, Mode::Repair, &mut Pauses::default())
            .await
            .unwrap();
        assert!(coverage.failed.is_empty(), "{:?}", coverage.failed);
        let limits = Limits { rows: 1_000, bytes: 1 << 20 };
        let reader = Reader::prepare(session.client(), &options.names.schema, limits).await.unwrap();
        let progress = Progress::resume(beginning());
        Self { database, options, session, client, progress, reader }
    }

    pub(crate) async fn reconcile(&self) -> Coverage {
        coverage::reconcile(self.session.client(), &self.options, Mode::Repair, &mut Pauses::default())
            .await
            .unwrap()
    }

    /// Runs statements of the application, on a connection of its own user.
    pub(crate) async fn execute(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) async fn read(&mut self) -> Batch {
        let next = self.progress.next_read();
        self.reader.read(self.session.client(), &next, None, usize::MAX).await.unwrap()
    }

    /// Everything new, handled at once, as events.
    pub(crate) async fn events(&mut self) -> Vec<Event> {
        let stamp = Stamp {
            trigger: self.options.names.id.as_str().into(),
            token: 1,
            operations: self.options.operations.clone(),
        };
        let mut events = Vec::new();
        loop {
            let batch = self.read().await;
            for change_set in &batch.change_sets {
                stamp.events(change_set, 1, &mut events).unwrap();
            }
            let last_seq = batch.change_sets.last().map(|last| last.seq);
            self.progress.claim(Chunk { snapshot: batch.snapshot, last_seq, exhausted: batch.exhausted });
            if last_seq.is_some() {
                self.progress.complete();
            } else {
                return events;
            }
        }
    }

    /// Everything new, a line for each event: `location operation id`.
    pub(crate) async fn lines(&mut self) -> Vec<String> {
        self.events().await.iter().map(|e| format!("{} {} {}", e.location, e.operation, e.id)).collect()
    }
}

/// Seals the cursor with a token of the store that all tests share.
pub(crate) async fn seal(session: &Session, schema: &str, token: u64) -> Result<Sealed, PostgresError> {
    let statements = CursorStatements::prepare(session.client(), schema).await.unwrap();
    let store = "11111111-1111-1111-1111-111111111111".parse().unwrap();
    let grant = Grant { token: FencingToken::new(token).unwrap(), store };
    Cursor::seal(session.client(), statements, &session.server, grant).await
}

pub(crate) fn beginning() -> Position {
    Position { prev: Snapshot::beginning(), target: None, done: 0, claimed: None, attempt: 0 }
}

/// Locks whose store can be shared by several replicas of one test.
pub(crate) fn locks(store: &Arc<MemoryStore>) -> Arc<LockManager> {
    let store = Arc::clone(store) as Arc<dyn LockStore>;
    Arc::new(LockManager::new(store, LeaseConfig::from_ttl(Duration::from_secs(10)).unwrap()))
}

/// A replica of an input in a task of its own, whose deliveries are taken by hand.
pub(crate) struct Replica {
    pub(crate) deliveries: mpsc::Receiver<Delivery>,
    pub(crate) errors: mpsc::Receiver<InputError>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), InputError>>,
}

impl Replica {
    pub(crate) async fn start(config: InputConfig, locks: Arc<LockManager>) -> Self {
        let input = PostgresInput::new(config, locks).await.unwrap();
        let (delivery_sender, deliveries) = mpsc::channel(1);
        let (error_sender, errors) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let sink = EventSink::new(delivery_sender, error_sender);
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { input.handle(sink, stop).await }
        });
        Self { deliveries, errors, stop, task }
    }

    /// The next events, handled at once.
    pub(crate) async fn handle(&mut self) -> Vec<Event> {
        let delivery = tokio::time::timeout(WAIT, self.deliveries.recv()).await.unwrap().unwrap();
        delivery
            .into_events()
            .map(|(event, acknowledgement)| {
                acknowledgement.handled();
                event
            })
            .collect()
    }

    /// At least `count` events, handled at once.
    pub(crate) async fn handle_all(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.handle().await);
        }
        events
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(WAIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// Waits until a query on the database says true.
pub(crate) async fn wait_until(client: &Client, sql: &str) {
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        let row = client.query_one(sql, &[]).await.unwrap();
        if row.get(0) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never became true: {sql}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// True once the table has all triggers of the default operations.
pub(crate) async fn wait_until_covered(client: &Client, table: &str) {
    let sql = format!(
        "SELECT count(*) = 3 FROM pg_trigger WHERE tgrelid = to_regclass('{table}') AND tgname LIKE 'dapper%'"
    );
    wait_until(client, &sql).await;
}
