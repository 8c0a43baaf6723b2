//! A PostgreSQL input for the dapper pipeline orchestrator, made to run in many replicas at once.
//!
//! Triggers write *change sets* into a schema of the input's own, in the application's transactions; one replica, the
//! *holder* of a lease, reads them by a cursor that is a snapshot, claims each batch before it hands it out, and
//! advances when it was handled. When the holder stops, dies or hangs, another replica takes over where it was: nothing
//! is lost, and what may be a repeat is marked by `attempt`.
//!
//! What this crate does not do: it names no lock backend (it takes a [`LockManager`](dapper_lock::LockManager)), runs no
//! process, and does not make a process's effects exactly-once. It assumes PostgreSQL 13 or newer, a primary, and
//! `READ COMMITTED` sessions of its own that no transaction pooler splits.
//!
//! ```no_run
//! use std::sync::Arc;
//! use dapper_core::InputConfig;
//! use dapper_lock::{LeaseConfig, LockManager, MemoryStore};
//! use dapper_postgres::PostgresInput;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let locks = LockManager::new(Arc::new(MemoryStore::new()), LeaseConfig::from_ttl(std::time::Duration::from_secs(10))?);
//! let config = InputConfig {
//!     name: "orders-input".into(),
//!     connection_string: std::env::var("DATABASE_URL")?.into(),
//!     ..InputConfig::default()
//! };
//! let input = PostgresInput::new(config, Arc::new(locks)).await?;
//! assert_eq!(input.id(), "orders_input");
//! # Ok(())
//! # }
//! ```

#[macro_use]
mod failpoint;

mod audit;
mod capture;
mod coverage;
mod cursor;
mod dead_letters;
mod doctor;
mod error;
mod events;
mod holder;
mod images;
mod input;
mod installation;
mod layout;
mod maintenance;
mod meter;
mod names;
mod new_tables;
mod operator;
mod options;
mod parked_events;
mod parking;
mod patterns;
mod pauses;
mod presence;
mod progress;
mod reader;
mod replay;
mod rotation;
mod session;
mod skip;
mod snapshot;
mod status;
mod wake_up;
mod wire;

#[cfg(test)]
mod tests;

pub use audit::{AuditRecord, audit};
pub use dapper_connect::ConnectionString;
pub use dead_letters::{
    DeadLetter, DeadLetterFilter, DeadLetters, dead_letters, discard_dead_letters, retry_dead_letters,
};
pub use doctor::{Finding, Severity, diagnose};
pub use error::PostgresError;
pub use input::PostgresInput;
pub use installation::{
    InstallPlan, InstallReport, InstallStep, UninstallReport, install, plan_install, uninstall,
};
pub use maintenance::{
    AcceptedLockStore, ServerInfo, accept_lock_store, lease_resource, probe, probe_schema, rebase, validate,
};
pub use names::{MAX_IDENTIFIER_BYTES, Names};
pub use operator::operated_by;
pub use options::OPTION_KEYS;
pub use parked_events::{ParkedEvent, parked_events, retry_parked_event};
pub use pauses::{pause, resume};
pub use replay::{Replay, Replayed, replay};
pub use skip::{Skip, SkipCandidate, Skipped, skip, skip_candidates};
pub use status::{
    Count, Coverage, Cursor, DeadLetterCount, Holder, Lag, Parked, ParkedAt, Pause, ReplicaStatus, State,
    Status, StatusReader,
};

/// The program in the README is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
