//! One writer that commits one row at a time, and remembers what became of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::Client;

use super::Failure;
use crate::connect;
use crate::history::{Change, Operation, Outcome, Transaction, Writes};

const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// The table that is written to.
pub(super) const TABLE: &str = "CREATE TABLE ticks (id bigint PRIMARY KEY)";

/// A writer at work, until [`stop`](Self::stop).
#[derive(Debug)]
pub(super) struct Trickle {
    task: JoinHandle<Writes>,
    pace: Arc<Pace>,
}

#[derive(Debug)]
struct Pace {
    stopping: AtomicBool,
    every_ms: AtomicU64,
}

impl Trickle {
    /// Starts committing a row every so often.
    pub(super) fn start(url: String, every: Duration) -> Self {
        let pace =
            Arc::new(Pace { stopping: AtomicBool::new(false), every_ms: AtomicU64::new(millis(every)) });
        Self { task: tokio::spawn(write(url, Arc::clone(&pace))), pace }
    }

    /// Sets how often, in whole milliseconds.
    pub(super) fn commit_every(&self, every: Duration) {
        self.pace.every_ms.store(millis(every), Ordering::Relaxed);
    }

    /// Ends it; says what it did.
    pub(super) async fn stop(self) -> Result<Writes, Failure> {
        self.pace.stopping.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

async fn write(url: String, pace: Arc<Pace>) -> Writes {
    let mut writes = Writes::default();
    let mut id = 0_i64;
    while !pace.is_over() {
        if let Ok(client) = connect(&url).await {
            write_over(&client, &pace, &mut id, &mut writes).await;
        }
        if !pace.is_over() {
            sleep(RECONNECT_PAUSE).await;
        }
    }
    writes
}

/// Writes until the connection breaks or all is over.
async fn write_over(client: &Client, pace: &Pace, id: &mut i64, writes: &mut Writes) {
    let Ok(insert) = client.prepare("INSERT INTO ticks VALUES ($1)").await else { return };
    while !pace.is_over() {
        let due = Instant::now() + Duration::from_millis(pace.every_ms.load(Ordering::Relaxed));
        *id += 1;
        let outcome = match client.execute(&insert, &[id]).await {
            Ok(_) => Outcome::Committed,
            // Class 57 is the server going away; any other answer means that a statement failed because of us.
            Err(error) => {
                let answer = error.code().map(|code| code.code().to_owned());
                if answer.is_some_and(|code| !code.starts_with("57P")) {
                    writes.failed_statements.push(crate::chain(&error));
                }
                Outcome::Unknown
            }
        };
        let changes = vec![Change::new("ticks", id.to_string(), Operation::Create)];
        writes.transactions.push(Transaction { outcome, changes });
        if outcome == Outcome::Unknown && client.is_closed() {
            return;
        }
        sleep_until(due).await;
    }
}

impl Pace {
    fn is_over(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
