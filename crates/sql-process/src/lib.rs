//! The SQL process: runs a statement for each event, by default together with the inbox in one transaction, so that each
//! event takes effect once, however often it is delivered, and one from a replaced replica never.
//!
//! It does not retry: that is the orchestrator's. It assumes a tokio runtime with time and I/O, and PostgreSQL 13 or newer.
//! No log line, error or `Debug` shows the connection string's password.
//!
//! # Configuration
//! The keys of the execution context are [`CONNECTION_STRING`], [`STATEMENT`], [`INBOX`], [`CONSUMER`], [`INBOX_SCHEMA`],
//! [`TIMEOUT`] and [`STATEMENT_TIMEOUT`]. In the statement `:event_id`, `:location`, `:operation`, `:id`, `:trigger`, `:key`,
//! `:old`, `:new`, `:attempt`, `:token`, `:captured_at`, `:traceparent` and `:event` stand for what the event says, `:event`
//! for all of it as JSON. Each becomes a parameter of the type that its place asks for, read from text as the server reads it,
//! and null where the event has none; `:key::jsonb` gives it a type where the place leaves it open.
//!
//! ```
//! use dapper_core::{ProcessConfig, Registry};
//!
//! let mut registry = Registry::new();
//! dapper_sql_process::register(&mut registry);
//!
//! let context = [
//!     ("connection_string", "postgresql://app@db.example/warehouse"),
//!     ("statement", "UPDATE totals SET changes = changes + 1 WHERE location = :location"),
//! ];
//! let process = registry.process(ProcessConfig {
//!     name: "count".into(),
//!     kind: dapper_sql_process::KIND.into(),
//!     execution_context: context.map(|(key, value)| (key.into(), value.into())).into(),
//! })?;
//! assert_eq!(process.id(), "count");
//! # Ok::<(), dapper_core::RegistryError>(())
//! ```

mod error;
mod fields;
mod lexer;
mod pool;
mod process;
mod settings;
mod template;

pub use error::{SqlErrorKind, SqlProcessError};
pub use process::{KIND, SqlProcess, install, plan_install, probe, register};
pub use settings::{
    CONNECTION_STRING, CONSUMER, DEFAULT_TIMEOUT, INBOX, INBOX_SCHEMA, KEYS, MAX_TIMEOUT, STATEMENT,
    STATEMENT_TIMEOUT, TIMEOUT,
};
