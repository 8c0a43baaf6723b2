//! What the replicas handled: the lines of their `log` processes, from one pipe.

use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::history::Delivery;

/// Events in the order in which they were written, each with the time at which it was read.
#[derive(Clone, Debug)]
pub(super) struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    count: watch::Sender<usize>,
}

impl Output {
    /// Reads until the last writer is gone.
    pub(super) fn read(pipe: PipeReader) -> Self {
        let shared = Arc::new(Shared::default());
        let output = Self { shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let at = Instant::now();
                // Half a line, by a replica that was killed in the middle of it, is no event.
                let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
                let mut deliveries = shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
                deliveries.push(Delivery::from_event(&event, at));
                let count = deliveries.len();
                drop(deliveries);
                shared.count.send_replace(count);
            }
        });
        output
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        *self.shared.count.borrow()
    }

    /// All of them.
    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an event that `wanted` accepts, the `from`-th or a later one; `None` if there is none in time.
    pub(super) async fn wait_for(
        &self,
        mut from: usize,
        limit: Duration,
        wanted: impl Fn(&Delivery) -> bool,
    ) -> Option<Delivery> {
        let mut count = self.shared.count.subscribe();
        let found = async {
            loop {
                count.mark_unchanged();
                {
                    let deliveries = self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
                    let news = deliveries.get(from..).unwrap_or_default();
                    if let Some(delivery) = news.iter().find(|delivery| wanted(delivery)) {
                        return delivery.clone();
                    }
                    from += news.len();
                }
                // The sender lives as long as `self`.
                let _ = count.changed().await;
            }
        };
        timeout(limit, found).await.ok()
    }
}
