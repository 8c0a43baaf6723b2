//! Writers that change rows and remember what they did.

mod rows;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::history::{Change, Operation, Outcome, Transaction, Writes};
use crate::{ServerError, connect};
use rows::{Plan, Rows};

/// The tables that a workload changes: keys of one number, of text, of two numbers; and `counters`, a few rows that
/// all writers contend for.
pub const TABLES: &str = "
CREATE TABLE orders (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, note text);
CREATE TABLE customers (code text PRIMARY KEY, n int NOT NULL DEFAULT 0, note text);
CREATE TABLE order_lines (order_id bigint, line int, n int NOT NULL DEFAULT 0, note text, PRIMARY KEY (order_id, line));
CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
";

const COUNTERS: &str = "counters";
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// What the writers do.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// How many write at once.
    pub writers: u32,
    /// Changed rows per second, all writers together, those rolled back aside; `None` for as many as they can.
    pub rate: Option<f64>,
    /// Stop by themselves after about so many committed changes.
    pub limit: Option<u64>,
    /// Statements in one transaction: 1 to this.
    pub max_statements: u32,
    /// Rows in one statement: 1 to this.
    pub max_rows: u32,
    /// How often of a hundred transactions is rolled back.
    pub rollback_percent: u32,
    /// How many rows of `counters` to contend for; 0 for none.
    pub counters: u32,
    /// Fixes everything that is drawn at random.
    pub seed: u64,
}

/// Writers at work, until [`finish`](Self::finish) or [`stop`](Self::stop).
#[derive(Debug)]
pub struct Workload {
    writers: JoinSet<Writes>,
    created: Writes,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    options: WorkloadOptions,
    committed: AtomicU64,
    stopping: AtomicBool,
    /// When the next transaction is due.
    due: Mutex<Instant>,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            writers: 8,
            rate: None,
            limit: None,
            max_statements: 3,
            max_rows: 3,
            rollback_percent: 5,
            counters: 4,
            seed: 1,
        }
    }
}

impl Workload {
    /// Creates [`TABLES`] in a database.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_tables(url: &str) -> Result<(), ServerError> {
        let client = connect(url).await?;
        client.batch_execute(TABLES).await.map_err(|source| ServerError::Database {
            action: "creating the workload's tables".to_owned(),
            source,
        })
    }

    /// Starts the writers, and says their seed on stderr. The tables must exist; whoever captures their changes must
    /// already do so.
    ///
    /// # Errors
    /// When the server refuses the first statements.
    pub async fn start(url: &str, options: WorkloadOptions) -> Result<Self, ServerError> {
        crate::say(&format!("{} writers, seed {}", options.writers, options.seed));
        let client = connect(url).await?;
        let mut created = Writes { contended: [COUNTERS.to_owned()].into(), ..Writes::default() };
        if options.counters > 0 {
            let statement = "INSERT INTO counters SELECT generate_series(1, $1::int)";
            let count = i32::try_from(options.counters).unwrap_or(i32::MAX);
            client
                .execute(statement, &[&count])
                .await
                .map_err(|source| ServerError::Database { action: statement.to_owned(), source })?;
            let changes =
                (1..=options.counters).map(|id| Change::new(COUNTERS, id.to_string(), Operation::Create));
            created
                .transactions
                .push(Transaction { outcome: Outcome::Committed, changes: changes.collect() });
        }
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            committed: AtomicU64::new(created.committed() as u64),
            options,
            stopping: AtomicBool::new(false),
            due: Mutex::new(Instant::now()),
        });
        let mut writers = JoinSet::new();
        for number in 0..shared.options.writers {
            writers.spawn(write(number, Arc::clone(&shared)));
        }
        Ok(Self { writers, created, shared })
    }

    /// How many changes are committed so far.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Ends the writers after the transactions that they are in; says what they did.
    pub async fn stop(self) -> Writes {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the limit of the options is reached; says what the writers did.
    pub async fn finish(mut self) -> Writes {
        let mut writes = self.created;
        while let Some(done) = self.writers.join_next().await {
            match done {
                Ok(one) => writes.extend(one),
                Err(error) => writes.failed_statements.push(format!("a writer ended: {error}")),
            }
        }
        writes
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        let reached = |limit| self.committed.load(Ordering::Relaxed) >= limit;
        self.stopping.load(Ordering::Relaxed) || self.options.limit.is_some_and(reached)
    }

    /// Waits for the turn of a transaction, and puts the next one off by its number of changes.
    async fn pace(&self, changes: usize) {
        let Some(rate) = self.options.rate else { return };
        let turn = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = *due;
            // What was missed while the server was away is not made up for beyond a second's worth.
            let earliest = Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(turn);
            *due = turn.max(earliest) + Duration::from_secs_f64(changes as f64 / rate);
            turn
        };
        sleep_until(turn).await;
    }
}

/// One writer: transactions on rows of its own and on the contended ones, until the workload is over.
async fn write(number: u32, shared: Arc<Shared>) -> Writes {
    let mut random = Rng::with_seed(shared.options.seed.wrapping_mul(1_000_003).wrapping_add(number.into()));
    let mut writes = Writes::default();
    // Rows whose fate is unknown are never touched again: each connection has keys of its own.
    let mut epoch = 0;
    while !shared.is_over() {
        if let Ok(client) = connect(&shared.url).await {
            let mut rows = Rows::new(number, epoch);
            epoch += 1;
            write_over(&client, &shared, &mut random, &mut rows, &mut writes).await;
        }
        if !shared.is_over() {
            sleep(RECONNECT_PAUSE).await;
        }
    }
    writes
}

/// Writes until the connection breaks or the workload is over.
async fn write_over(
    client: &Client,
    shared: &Shared,
    random: &mut Rng,
    rows: &mut Rows,
    writes: &mut Writes,
) {
    while !shared.is_over() {
        let mut tentative = rows.clone();
        let plan = tentative.plan(random, &shared.options);
        let rolled_back = random.u32(0..100) < shared.options.rollback_percent;
        shared.pace(if rolled_back { 0 } else { plan.changes.len() }).await;
        let outcome = match run(client, &plan, rolled_back).await {
            Ok(outcome) => outcome,
            Err(failure) => {
                writes.failed_statements.extend(failure.charge);
                Outcome::RolledBack
            }
        };
        let lost = outcome == Outcome::Unknown || client.is_closed();
        if outcome == Outcome::Committed {
            *rows = tentative;
            shared.committed.fetch_add(plan.changes.len() as u64, Ordering::Relaxed);
        }
        writes.transactions.push(Transaction { outcome, changes: plan.changes });
        if lost {
            return;
        }
    }
}

/// A transaction did not commit.
struct Failure {
    /// What to hold against the server. It may go away, as it does in some tests; while it is there, no statement of
    /// a writer has a reason to fail.
    charge: Option<String>,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let refused = error.as_db_error().is_some_and(|error| !is_going_away(error));
        Self { charge: refused.then(|| crate::chain(&error)) }
    }
}

async fn run(client: &Client, plan: &Plan, rolled_back: bool) -> Result<Outcome, Failure> {
    client.batch_execute("BEGIN").await?;
    for statement in &plan.statements {
        if let Err(failure) = affect(client, statement).await {
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(failure);
        }
    }
    if rolled_back {
        client.batch_execute("ROLLBACK").await?;
        return Ok(Outcome::RolledBack);
    }
    match client.batch_execute("COMMIT").await {
        Ok(()) => Ok(Outcome::Committed),
        // The server says that it did not commit.
        Err(error) if error.as_db_error().is_some_and(|error| !is_going_away(error)) => Err(error.into()),
        Err(_) => Ok(Outcome::Unknown),
    }
}

async fn affect(client: &Client, statement: &rows::Statement) -> Result<(), Failure> {
    let messages = client.simple_query(&statement.sql).await?;
    let affected = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::CommandComplete(count) => Some(*count),
        _ => None,
    });
    // Each writer is alone with its rows, so it knows how many there are.
    if affected == Some(statement.rows) {
        return Ok(());
    }
    Err(Failure { charge: Some(format!("{affected:?} rows, not {}, by {}", statement.rows, statement.sql)) })
}

/// Class 57 is operator intervention: the server shuts down, crashed, or ends this session.
fn is_going_away(error: &tokio_postgres::error::DbError) -> bool {
    error.code().code().starts_with("57P")
}
