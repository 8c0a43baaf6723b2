//! Inputs and processes that do what a test says.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{
    CancellationToken, Delivery, Event, EventSink, Input, InputError, Operation, Process, ProcessError,
    ProcessStatus, Receipt,
};
use dapper_orchestrator::{Orchestrator, OrchestratorError, RunError};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

type Handle = Box<
    dyn Fn(usize, EventSink, CancellationToken) -> BoxFuture<'static, Result<(), InputError>> + Send + Sync,
>;
type Run = Box<dyn Fn(Event) -> BoxFuture<'static, Result<ProcessStatus, ProcessError>> + Send + Sync>;

struct TestInput {
    id: String,
    runs: AtomicUsize,
    handle: Handle,
}

/// An input whose `handle` is `handle`, told which run it is, from 1.
pub(crate) fn input<F, R>(id: &str, handle: F) -> Arc<dyn Input>
where
    F: Fn(usize, EventSink, CancellationToken) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), InputError>> + Send + 'static,
{
    let handle: Handle = Box::new(move |run, sink, stop| Box::pin(handle(run, sink, stop)));
    Arc::new(TestInput { id: id.into(), runs: AtomicUsize::new(0), handle })
}

/// An input that does nothing until it is stopped.
pub(crate) fn idle(id: &str) -> Arc<dyn Input> {
    input(id, async |_, _, stop| {
        stop.cancelled().await;
        Ok(())
    })
}

#[async_trait]
impl Input for TestInput {
    fn id(&self) -> &str {
        &self.id
    }
    async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
        (self.handle)(self.runs.fetch_add(1, Ordering::SeqCst) + 1, sink, stop).await
    }
}

struct TestProcess {
    id: String,
    run: Run,
}

/// A process whose `run` is `run`.
pub(crate) fn process<F, R>(id: &str, run: F) -> Arc<dyn Process>
where
    F: Fn(Event) -> R + Send + Sync + 'static,
    R: Future<Output = Result<ProcessStatus, ProcessError>> + Send + 'static,
{
    Arc::new(TestProcess { id: id.into(), run: Box::new(move |event| Box::pin(run(event))) })
}

/// A process that passes on what it is handed, and succeeds.
pub(crate) fn recorder(id: &str) -> (Arc<dyn Process>, mpsc::UnboundedReceiver<Event>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let process = process(id, move |event| {
        let _ = sender.send(event);
        async { success() }
    });
    (process, receiver)
}

#[async_trait]
impl Process for TestProcess {
    fn id(&self) -> &str {
        &self.id
    }
    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        (self.run)(event.clone()).await
    }
}

pub(crate) fn success() -> Result<ProcessStatus, ProcessError> {
    Ok(ProcessStatus::success("test"))
}

pub(crate) fn failure(reason: &str) -> Result<ProcessStatus, ProcessError> {
    Ok(ProcessStatus::fail("test", reason))
}

pub(crate) fn event(id: &str) -> Event {
    Event::new("t", Operation::Create, id, "in")
}

pub(crate) fn events(ids: &[&str]) -> Vec<Event> {
    ids.iter().map(|id| event(id)).collect()
}

/// Feeds an input that keeps its receipts, as a good input does, and waits for them when it is stopped.
pub(crate) struct Feed {
    deliveries: mpsc::UnboundedSender<(Delivery, Receipt)>,
    settled: mpsc::UnboundedReceiver<(usize, bool)>,
}

impl Feed {
    pub(crate) fn send(&self, events: Vec<Event>) {
        self.deliver(Delivery::new(events));
    }
    pub(crate) fn deliver(&self, delivery: (Delivery, Receipt)) {
        self.deliveries.send(delivery).unwrap();
    }
    /// Waits until one more delivery is settled: how many of its events were handled without a gap, and whether all
    /// were. `None` when the input is gone.
    pub(crate) async fn settled(&mut self) -> Option<(usize, bool)> {
        soon(self.settled.recv()).await
    }
    /// The same, without waiting.
    pub(crate) fn settled_now(&mut self) -> Option<(usize, bool)> {
        self.settled.try_recv().ok()
    }
}

pub(crate) fn fed(id: &str) -> (Arc<dyn Input>, Feed) {
    let (deliveries, queue) = mpsc::unbounded_channel::<(Delivery, Receipt)>();
    let (told, settled) = mpsc::unbounded_channel();
    let queue = Arc::new(Mutex::new(queue));
    let input = input(id, move |_, sink, stop| {
        let (queue, told) = (Arc::clone(&queue), told.clone());
        async move {
            let mut queue = queue.lock().await;
            let mut receipts = FuturesUnordered::new();
            let wait = async |mut receipt: Receipt| {
                (&mut receipt).await;
                (receipt.handled_prefix(), receipt.is_handled())
            };
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    Some(done) = receipts.next() => { let _ = told.send(done); }
                    Some((delivery, receipt)) = queue.recv() => {
                        receipts.push(wait(receipt));
                        sink.send(delivery).await.unwrap();
                    }
                    else => stop.cancelled().await,
                }
            }
            while let Some(done) = receipts.next().await {
                let _ = told.send(done);
            }
            Ok(())
        }
    });
    (input, Feed { deliveries, settled })
}

/// What must come sooner or later. The limit is virtual time in nearly all tests, and passes in no time.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(3600), what).await.expect("it comes within an hour")
}

/// A graph at work.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
    pub(crate) errors: mpsc::Receiver<OrchestratorError>,
}

pub(crate) fn start(mut orchestrator: Orchestrator) -> Running {
    let stop = CancellationToken::new();
    let errors = orchestrator.errors();
    Running { task: tokio::spawn(orchestrator.run(stop.clone())), stop, errors }
}

impl Running {
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }
    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.stop.cancel();
        soon(self.task).await.unwrap()
    }
}
