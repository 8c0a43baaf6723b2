//! The graph, ready to run.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dapper_core::Input;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::builder::ProcessNode;
use crate::diagram::Diagram;
use crate::dispatch::Pool;
use crate::plan::Plan;
use crate::report::Reporter;
use crate::supervise::supervise;
use crate::{GraphWarning, OrchestratorBuilder, OrchestratorError, RunError};

/// Errors that may wait to be read.
const ERRORS_AHEAD: usize = 1024;
/// How long inputs may take to write down how far they came, once the drain deadline has passed.
const GRACE: Duration = Duration::from_secs(5);

/// A checked graph of inputs and processes.
pub struct Orchestrator {
    pub(crate) inputs: Vec<Arc<dyn Input>>,
    pub(crate) processes: Vec<ProcessNode>,
    pub(crate) plan: Plan,
    pub(crate) diagram: Diagram,
    pub(crate) warnings: Vec<GraphWarning>,
    pub(crate) concurrency: usize,
    pub(crate) drain_deadline: Duration,
    pub(crate) most_outstanding: usize,
    pub(crate) errors: Option<mpsc::Sender<OrchestratorError>>,
}

impl Orchestrator {
    /// Begins a graph.
    pub fn builder() -> OrchestratorBuilder {
        OrchestratorBuilder::new()
    }

    /// The stream of everything that goes wrong from here on; it ends when the graph has stopped. All of it is
    /// logged as well, so nobody need read the stream: what finds it full is left out and counted, and nothing
    /// waits. Asked again, the new stream takes the place of the old.
    pub fn errors(&mut self) -> mpsc::Receiver<OrchestratorError> {
        let (sender, receiver) = mpsc::channel(ERRORS_AHEAD);
        self.errors = Some(sender);
        receiver
    }

    /// What looks like a mistake but does not keep the graph from running.
    #[must_use]
    pub fn warnings(&self) -> &[GraphWarning] {
        &self.warnings
    }

    /// The graph as a Mermaid flow chart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        self.diagram.mermaid()
    }

    /// The graph in Graphviz's DOT language.
    #[must_use]
    pub fn to_dot(&self) -> String {
        self.diagram.dot()
    }

    /// The graph as a tree for terminals, a line per node.
    #[must_use]
    pub fn to_terminal(&self) -> String {
        self.diagram.terminal()
    }

    /// The ids of all inputs, in order.
    #[must_use]
    pub fn input_ids(&self) -> &[String] {
        self.diagram.inputs()
    }

    /// The ids of all processes, in order.
    #[must_use]
    pub fn process_ids(&self) -> &[String] {
        self.diagram.processes()
    }

    /// All links, from and to, in order.
    #[must_use]
    pub fn links(&self) -> &[(String, String)] {
        self.diagram.links()
    }

    /// Runs until `stop` is cancelled, then stops gracefully: inputs send nothing new, events under way are
    /// finished up to the drain deadline, the rest is abandoned, and inputs write down how far they came. It
    /// returns at the drain deadline plus 5 s at the latest.
    ///
    /// Dropping the future stops everything at once; inputs may then repeat events.
    ///
    /// # Errors
    /// When inputs had to be dropped because they did not return in time.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let names: Vec<String> = self.inputs.iter().map(|input| input.id().to_owned()).collect();
        let pool = Arc::new(Pool::new(self.plan, &names, self.processes, Reporter::new(self.errors)));
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            let pool = Arc::clone(&pool);
            workers.spawn(async move { pool.work().await });
        }
        workers.spawn({
            let pool = Arc::clone(&pool);
            async move { pool.keep_time().await }
        });
        let mut inputs = JoinSet::new();
        let mut running = HashMap::new();
        for (index, input) in self.inputs.into_iter().enumerate() {
            let name = input.id().to_owned();
            let task = supervise(input, index, self.most_outstanding, Arc::clone(&pool), stop.clone());
            running.insert(inputs.spawn(task).id(), name);
        }

        stop.cancelled().await;
        tracing::info!("stopping: finishing what is under way");
        let deadline = Instant::now() + self.drain_deadline;
        pool.drain();
        if timeout_at(deadline, all_ended(&mut inputs, &mut running)).await.is_err() {
            tracing::warn!("stopping: the drain deadline has passed; abandoning what is under way");
            pool.cut_off();
            // A timeout here shows in what is left running.
            let _ = timeout(GRACE, all_ended(&mut inputs, &mut running)).await;
        }
        pool.close();
        if timeout_at(deadline, ended(&mut workers)).await.is_err() {
            pool.cut_off();
        }
        if running.is_empty() {
            return Ok(());
        }
        let mut inputs: Vec<String> = running.into_values().collect();
        inputs.sort();
        Err(RunError::InputsDropped { inputs })
    }
}

async fn all_ended(inputs: &mut JoinSet<()>, running: &mut HashMap<tokio::task::Id, String>) {
    while let Some(ended) = inputs.join_next_with_id().await {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        running.remove(&id);
    }
}

async fn ended(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator")
            .field("diagram", &self.diagram)
            .field("concurrency", &self.concurrency)
            .field("drain_deadline", &self.drain_deadline)
            .finish_non_exhaustive()
    }
}
