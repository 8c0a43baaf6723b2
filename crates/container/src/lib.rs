//! The container process: runs an image for each event through the HTTP API of a Docker engine, and takes exit code 0 for
//! "handled".
//!
//! The event is in the variable [`EVENT_VARIABLE`] of the container; one that is too large for a variable is refused. What the
//! container prints is logged, within bounds. It does not retry: that is the orchestrator's. It speaks to the engine's Unix
//! socket itself: no program `docker` is needed. It assumes a tokio runtime with time and I/O, and an engine with API 1.41
//! (Docker 20.10) or newer.
//!
//! # What is removed, and when
//! A container is removed, and killed where it still runs, when its run has ended, when its time is up, and when the call is
//! dropped. What a replica could not remove, because it was killed, is found by its labels: when the first event of an input
//! with a higher fencing token comes, everything that runs for the same process and input with a lower one is removed; and
//! whatever is older than its timeout allows is removed within a minute of the next event. Labels hold a fingerprint of the
//! process's settings, so that pipelines which share an engine do not remove each other's.
//!
//! # Configuration
//! The keys of the execution context are [`IMAGE`], [`COMMAND`], [`PULL`], [`NETWORK`], [`SOCKET`], [`TIMEOUT`], and those
//! that begin with [`ENV`]. Their values are secrets: neither a log line nor an error nor `Debug` shows one.
//!
//! ```
//! use dapper_core::{ProcessConfig, Registry};
//!
//! let mut registry = Registry::new();
//! dapper_container::register(&mut registry);
//!
//! let process = registry.process(ProcessConfig {
//!     name: "thumbnail".into(),
//!     kind: dapper_container::KIND.into(),
//!     execution_context: [("image".into(), "example.com/thumbnail:3".into())].into(),
//! })?;
//! assert_eq!(process.id(), "thumbnail");
//! # Ok::<(), dapper_core::RegistryError>(())
//! ```

mod engine;
mod error;
mod frames;
mod image;
mod process;
mod removal;
mod settings;
mod sweep;

pub use dapper_program::EVENT_VARIABLE;
pub use error::ContainerError;
pub use process::{ContainerProcess, KIND, probe, register};
pub use settings::{
    COMMAND, DEFAULT_SOCKET, DEFAULT_TIMEOUT, ENV, IMAGE, KEYS, MAX_TIMEOUT, NETWORK, PULL, SOCKET, TIMEOUT,
};
