//! Puts a graph together and checks it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dapper_core::{Input, Process};
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use crate::diagram::Diagram;
use crate::filter::Filter;
use crate::plan::Plan;
use crate::reach::FilteredLink;
use crate::{Orchestrator, RetryPolicy};

/// How many processes run at the same time unless told otherwise, as in the ancestor.
const DEFAULT_CONCURRENCY: usize = 8;
const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(10);
const DEFAULT_MOST_OUTSTANDING: usize = 65_536;

/// Collects inputs, processes and links; [`build`](Self::build) checks them.
#[must_use]
pub struct OrchestratorBuilder {
    inputs: Vec<Arc<dyn Input>>,
    processes: Vec<ProcessNode>,
    links: Vec<(String, String)>,
    /// By place among the links.
    filters: Vec<Option<Arc<Filter>>>,
    concurrency: usize,
    drain_deadline: Duration,
    most_outstanding: usize,
}

/// A process and how it is retried.
pub(crate) struct ProcessNode {
    pub(crate) process: Arc<dyn Process>,
    pub(crate) policy: RetryPolicy,
}

/// Why inputs, processes and links make no graph that can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Two inputs, two processes, or an input and a process have one id.
    #[error("more than one input or process has the id {node:?}")]
    DuplicateNode {
        /// The id.
        node: String,
    },
    /// A link names something that was not added.
    #[error("link {from:?} -> {to:?}: there is no {unknown:?}{}", nearest.as_ref().map(|name| format!("; did you mean {name:?}?")).unwrap_or_default())]
    UnknownNode {
        /// Where the link starts.
        from: String,
        /// Where the link leads.
        to: String,
        /// Which of the two is unknown.
        unknown: String,
        /// The id that looks most like it.
        nearest: Option<String>,
    },
    /// A link was added twice.
    #[error("link {from:?} -> {to:?} is there twice")]
    DuplicateLink {
        /// Where the link starts.
        from: String,
        /// Where the link leads.
        to: String,
    },
    /// A link leads into an input; events only come out of those.
    #[error("link {from:?} -> {to:?} leads into an input; links lead into processes")]
    LinkIntoInput {
        /// Where the link starts.
        from: String,
        /// Where the link leads.
        to: String,
    },
    /// Processes link back to themselves.
    #[error("processes form a cycle: {}", nodes.join(", "))]
    Cycle {
        /// The ids of the processes in the cycle, sorted.
        nodes: Vec<String>,
    },
    /// The events of an input would go nowhere.
    #[error("input {input:?} has no link to a process, so its events would be lost")]
    InputWithoutLinks {
        /// The input's id.
        input: String,
    },
    /// With no process running at a time nothing would ever be handled.
    #[error("concurrency must be at least 1")]
    ZeroConcurrency,
}

/// What looks like a mistake in a graph that can run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraphWarning {
    /// No event ever reaches this process.
    UnreachableProcess {
        /// The process's id.
        process: String,
    },
}

/// An input or a process, by its index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Input(usize),
    Process(usize),
}

impl OrchestratorBuilder {
    pub(crate) fn new() -> Self {
        Self {
            inputs: Vec::new(),
            processes: Vec::new(),
            links: Vec::new(),
            filters: Vec::new(),
            concurrency: DEFAULT_CONCURRENCY,
            drain_deadline: DEFAULT_DRAIN_DEADLINE,
            most_outstanding: DEFAULT_MOST_OUTSTANDING,
        }
    }

    /// Adds an input under its own id.
    pub fn add_input(mut self, input: Arc<dyn Input>) -> Self {
        self.inputs.push(input);
        self
    }

    /// Adds a process under its own id, with the default [`RetryPolicy`].
    pub fn add_process(self, process: Arc<dyn Process>) -> Self {
        self.add_process_with(process, RetryPolicy::default())
    }

    /// Adds a process under its own id.
    pub fn add_process_with(mut self, process: Arc<dyn Process>, policy: RetryPolicy) -> Self {
        self.processes.push(ProcessNode { process, policy });
        self
    }

    /// Sends the events of the input `from`, or those that the process `from` has handled, to the process `to`.
    pub fn add_link(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.add_filtered_link(from, to, Filter::default())
    }

    /// The same, for those events alone that the filter lets through. An event that no link takes is handled.
    pub fn add_filtered_link(
        mut self,
        from: impl Into<String>,
        to: impl Into<String>,
        filter: Filter,
    ) -> Self {
        self.links.push((from.into(), to.into()));
        self.filters.push((!filter.is_open()).then(|| Arc::new(filter)));
        self
    }

    /// How many runs of processes there may be at the same time, over the whole graph. Default: 8.
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = most;
        self
    }

    /// How long events that are under way may go on after the stop. Default: 10 s.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain_deadline = deadline;
        self
    }

    /// How many events of one input may be under way before no further delivery is taken from it; the last one
    /// taken may go beyond. Default: 65,536.
    pub fn most_outstanding(mut self, events: usize) -> Self {
        self.most_outstanding = events.max(1);
        self
    }

    /// Checks the graph.
    ///
    /// # Errors
    /// The first thing found that keeps it from running.
    pub fn build(self) -> Result<Orchestrator, GraphError> {
        if self.concurrency == 0 {
            return Err(GraphError::ZeroConcurrency);
        }
        let nodes = self.nodes()?;
        let (from_input, onward) = self.resolve_links(&nodes)?;
        self.refuse_cycles(&onward)?;
        for (index, input) in self.inputs.iter().enumerate() {
            if !from_input.iter().any(|link| link.0 == index) {
                return Err(GraphError::InputWithoutLinks { input: input.id().to_owned() });
            }
        }
        let pairs = |links: &[FilteredLink]| links.iter().map(|link| (link.0, link.1)).collect::<Vec<_>>();
        let plan = Plan::new(self.inputs.len(), &pairs(&from_input), &pairs(&onward));
        let plan = plan.with_filters(&from_input, &onward);
        let reached: HashSet<usize> = plan.routes.iter().map(|route| route.process).collect();
        let warnings = (0..self.processes.len())
            .filter(|process| !reached.contains(process))
            .map(|process| GraphWarning::UnreachableProcess {
                process: self.processes[process].process.id().to_owned(),
            })
            .collect();
        Ok(Orchestrator {
            diagram: Diagram::new(&self.inputs, &self.processes, &self.links),
            inputs: self.inputs,
            processes: self.processes,
            plan,
            warnings,
            concurrency: self.concurrency,
            drain_deadline: self.drain_deadline,
            most_outstanding: self.most_outstanding,
            errors: None,
        })
    }

    fn nodes(&self) -> Result<BTreeMap<&str, Node>, GraphError> {
        let inputs = self.inputs.iter().enumerate().map(|(index, input)| (input.id(), Node::Input(index)));
        let processes = self.processes.iter().enumerate();
        let processes = processes.map(|(index, node)| (node.process.id(), Node::Process(index)));
        let mut nodes = BTreeMap::new();
        for (id, node) in inputs.chain(processes) {
            if nodes.insert(id, node).is_some() {
                return Err(GraphError::DuplicateNode { node: id.to_owned() });
            }
        }
        Ok(nodes)
    }

    fn resolve_links(
        &self,
        nodes: &BTreeMap<&str, Node>,
    ) -> Result<(Vec<FilteredLink>, Vec<FilteredLink>), GraphError> {
        let (mut from_input, mut onward) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for ((from, to), filter) in self.links.iter().zip(&self.filters) {
            let node = |id: &String| {
                nodes.get(id.as_str()).copied().ok_or_else(|| GraphError::UnknownNode {
                    from: from.clone(),
                    to: to.clone(),
                    unknown: id.clone(),
                    nearest: nearest(id, nodes.keys().copied()),
                })
            };
            let link = match (node(from)?, node(to)?) {
                (_, Node::Input(_)) => {
                    return Err(GraphError::LinkIntoInput { from: from.clone(), to: to.clone() });
                }
                (Node::Input(from), Node::Process(to)) => (&mut from_input, (from, to, filter.clone())),
                (Node::Process(from), Node::Process(to)) => (&mut onward, (from, to, filter.clone())),
            };
            if !seen.insert((from, to)) {
                return Err(GraphError::DuplicateLink { from: from.clone(), to: to.clone() });
            }
            link.0.push(link.1);
        }
        Ok((from_input, onward))
    }

    fn refuse_cycles(&self, onward: &[FilteredLink]) -> Result<(), GraphError> {
        let graph: DiGraphMap<usize, ()> = onward.iter().map(|&(from, to, _)| (from, to, ())).collect();
        let cycles = tarjan_scc(&graph).into_iter().filter(|component| match component.as_slice() {
            &[alone] => graph.contains_edge(alone, alone),
            _ => true,
        });
        let name = |process: usize| self.processes[process].process.id().to_owned();
        let mut cycles: Vec<Vec<String>> = cycles
            .map(|component| {
                let mut nodes: Vec<String> = component.into_iter().map(name).collect();
                nodes.sort();
                nodes
            })
            .collect();
        cycles.sort();
        match cycles.into_iter().next() {
            Some(nodes) => Err(GraphError::Cycle { nodes }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for OrchestratorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrchestratorBuilder")
            .field("inputs", &self.inputs.iter().map(|input| input.id()).collect::<Vec<_>>())
            .field("processes", &self.processes.iter().map(|node| node.process.id()).collect::<Vec<_>>())
            .field("links", &self.links)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// The name that looks most like `name`, if any looks like it at all.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    const LEAST_LIKENESS: f64 = 0.7;
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}
