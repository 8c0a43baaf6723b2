//! One writer that commits one row at a time, and remembers what became of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
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
    stopping: Arc<AtomicBool>,
}

impl Trickle {
    /// Starts committing a row every so often.
    pub(super) fn start(url: String, every: Duration) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        Self { task: tokio::spawn(write(url, every, Arc::clone(&stopping))), stopping }
    }

    /// Ends it; says what it did.
    pub(super) async fn stop(self) -> Result<Writes, Failure> {
        self.stopping.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

async fn write(url: String, every: Duration, stopping: Arc<AtomicBool>) -> Writes {
    let mut writes = Writes::default();
    let mut id = 0_i64;
    while !stopping.load(Ordering::Relaxed) {
        if let Ok(client) = connect(&url).await {
            write_over(&client, every, &stopping, &mut id, &mut writes).await;
        }
        if !stopping.load(Ordering::Relaxed) {
            sleep(RECONNECT_PAUSE).await;
        }
    }
    writes
}

/// Writes until the connection breaks or all is over.
async fn write_over(
    client: &Client,
    every: Duration,
    stopping: &AtomicBool,
    id: &mut i64,
    writes: &mut Writes,
) {
    let Ok(insert) = client.prepare("INSERT INTO ticks VALUES ($1)").await else { return };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stopping.load(Ordering::Relaxed) {
        ticks.tick().await;
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
    }
}
