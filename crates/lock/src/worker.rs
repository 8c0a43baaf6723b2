//! Where leases are acquired and renewed, and how it shows that whoever holds one still runs.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, oneshot, watch};

use crate::lease::{EndOnDrop, Shared};
use crate::{Clock, LockError, LockErrorKind, Timestamp};

/// Runs a manager's work.
#[derive(Clone)]
pub(crate) enum Worker {
    /// On a thread with a runtime of its own, which is started when it is first needed and ends with the last clone.
    OwnThread(Arc<Mutex<Option<OwnThread>>>),
    /// On the runtime of whoever calls.
    Caller,
}

pub(crate) struct OwnThread {
    runtime: Handle,
    /// Ends the thread when it is dropped.
    _wanted: oneshot::Sender<Infallible>,
}

impl Worker {
    pub(crate) fn own_thread() -> Self {
        Self::OwnThread(Arc::default())
    }

    /// Where to spawn.
    ///
    /// # Panics
    /// Outside a tokio runtime, for work on the caller's.
    pub(crate) fn runtime(&self) -> Result<Handle, LockError> {
        let Self::OwnThread(thread) = self else { return Ok(Handle::current()) };
        let mut thread = thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*thread {
            return Ok(running.runtime.clone());
        }
        let started = OwnThread::start()
            .map_err(|error| LockError::with_source("manager", LockErrorKind::Unavailable, error))?;
        Ok(thread.insert(started).runtime.clone())
    }
}

impl OwnThread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (wanted, unwanted) = oneshot::channel();
        thread::Builder::new().name("dapper-lock".into()).spawn(move || {
            // Nothing is ever sent: it returns when the sender is dropped.
            let _ = runtime.block_on(unwanted);
        })?;
        Ok(Self { runtime: handle, _wanted: wanted })
    }
}

/// Tells whether the runtime on which a lease was acquired still runs what is given to it. Where it does not, the
/// holder hangs, and a lease that is renewed all the same would keep everybody else out for ever.
pub(crate) struct Pulse {
    ask: Arc<Notify>,
    seen: watch::Receiver<Timestamp>,
}

impl Pulse {
    /// Lets a task on `runtime` answer for as long as the lease lasts, and end the lease when the runtime shuts down.
    pub(crate) fn of(runtime: &Handle, clock: Arc<dyn Clock>, lease: Arc<Shared>) -> Self {
        let ask = Arc::new(Notify::new());
        let (sender, seen) = watch::channel(clock.now());
        let asked = Arc::clone(&ask);
        runtime.spawn(async move {
            let lease = EndOnDrop(lease);
            loop {
                tokio::select! {
                    _ = lease.0.over() => return,
                    () = asked.notified() => {
                        sender.send_replace(clock.now());
                    }
                }
            }
        });
        Self { ask, seen }
    }

    /// Returns once the runtime has run something within `patience` before `now`, or later; at once when it is gone,
    /// which has ended the lease.
    pub(crate) fn felt(
        &self,
        now: Timestamp,
        patience: Duration,
    ) -> impl Future<Output = ()> + Send + 'static {
        // For this time or for the next.
        self.ask.notify_one();
        let mut seen = self.seen.clone();
        async move {
            let _ = seen.wait_for(|seen| now.since(*seen) <= patience).await;
        }
    }
}
