//! What a pipeline file says.
//!
//! Reading it needs the text and a way to look up variables, nothing else: no file, no network. Every part remembers
//! its line, so that whoever finds something wrong with it later can say where.

mod filters;
mod links;
mod problem;
mod read;
mod section;
mod variables;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use dapper_core::{InputConfig, ProcessConfig};
use dapper_orchestrator::{Filter, RetryPolicy};

use crate::locks::LockConfig;

pub(crate) use problem::{Problem, did_you_mean};
pub(crate) use read::{Source, read};

/// The key of every input's address, and of that of the lock store.
pub(crate) const CONNECTION_STRING: &str = "connection_string";

/// A pipeline file that holds together: no name twice, no link to nothing.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) lock: LockSection,
    pub(crate) inputs: Vec<InputSection>,
    pub(crate) processes: Vec<ProcessSection>,
    pub(crate) links: Vec<LinkSection>,
}

/// `[lock]`, or its defaults.
#[derive(Debug)]
pub(crate) struct LockSection {
    /// The name of the backend.
    pub(crate) backend: String,
    /// What the file says besides backend and time to live.
    pub(crate) config: LockConfig,
    pub(crate) ttl: Duration,
    pub(crate) lines: Lines,
}

/// One of `[[inputs]]`.
#[derive(Debug)]
pub(crate) struct InputSection {
    pub(crate) config: InputConfig,
    pub(crate) lines: Lines,
}

/// One of `[[processes]]`.
#[derive(Debug)]
pub(crate) struct ProcessSection {
    pub(crate) config: ProcessConfig,
    pub(crate) policy: RetryPolicy,
    pub(crate) name_line: Option<usize>,
    /// Those of `[processes.execution_context]`.
    pub(crate) lines: Lines,
}

/// One of `[[links]]`: from an input or a process to a process, by the names in the file.
#[derive(Debug)]
pub(crate) struct LinkSection {
    pub(crate) from: String,
    pub(crate) to: String,
    /// What it lets through.
    pub(crate) filter: Filter,
    pub(crate) lines: Lines,
}

/// In which line a section begins, and each of its keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) section: Option<usize>,
    pub(crate) keys: BTreeMap<String, usize>,
}

impl Lines {
    /// The line of `key`, else that of the section.
    pub(crate) fn of(&self, key: Option<&str>) -> Option<usize> {
        key.and_then(|key| self.keys.get(key).copied()).or(self.section)
    }
}
