//! A store whose backup was restored.

use std::sync::Arc;

use dapper_lock::{Clock, LeaseConfig, LockManager, LockManagerOptions, Timestamp};
use tokio::time::{Instant, timeout};

use crate::case::{Stage, Stop, Verdict, ensure};
use crate::client::{LONG, SOON, resource};

const ROUNDS: usize = 3;

/// The time of the runtime, which is not the machine's where a test pauses it.
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_origin(self.0.elapsed() + LONG)
    }
}

/// A manager that has seen a token accepts no lower one, whatever the store says.
pub(crate) async fn a_store_that_was_set_back_is_refused(stage: Stage) -> Verdict {
    let one = stage.open().await?;
    let resource = resource("orders")?;
    let config = LeaseConfig::from_ttl(LONG).map_err(|error| Stop::Failed(error.to_string()))?;
    let options = LockManagerOptions { own_thread: false, clock: Arc::new(RuntimeClock(Instant::now())) };
    let manager = LockManager::with_options(one.store, config, options);
    let mut highest = None;
    for round in 0..ROUNDS {
        let lease = manager.acquire(&resource).await.map_err(|error| Stop::Failed(error.to_string()))?;
        highest = Some(lease.token());
        lease.release().await.map_err(|error| Stop::Failed(error.to_string()))?;
        if round == 0 {
            stage.harness.back_up().await?;
        }
    }
    stage.harness.restore().await?;
    let limit = SOON * 10;
    match timeout(limit, manager.acquire(&resource)).await {
        Err(_) => Err(Stop::Failed(format!(
            "a manager's acquire neither failed nor was granted within {limit:?} after a backup was restored \
             in which nobody holds {resource:?}"
        ))),
        Ok(Err(_)) => Ok(()),
        Ok(Ok(lease)) => {
            let token = lease.token();
            ensure!(
                Some(token) > highest,
                "a manager that had seen token {highest:?} accepted token {token} after a backup was restored"
            );
            Ok(())
        }
    }
}
