//! The webhook process: sends each event as JSON to an HTTP endpoint and takes a 2xx answer for "handled".
//!
//! It does not retry, does not follow redirects, and reads neither the environment nor a proxy setting from it: retries
//! are the orchestrator's, and an endpoint that moved is a matter for the configuration. It assumes a tokio runtime
//! with time and I/O. No log line, error or `Debug` shows the user info, the query or the fragment of the URL; an
//! answer that quotes them as they are written is logged without them. The path is shown: it is no place for a secret.
//!
//! # Request
//! The body is [`Event::to_json`](dapper_core::Event::to_json). Besides `content-type` and `user-agent` the headers
//! are, each when the event has it: `idempotency-key` (the event's id: the same over redelivery), `dapper-attempt`
//! (above 1: may be a repeat), `dapper-token` (refuse one lower than seen before) and `traceparent`.
//!
//! # Configuration
//! The keys of the execution context are [`URL`], [`METHOD`] and [`TIMEOUT`].
//!
//! ```
//! use dapper_core::{ProcessConfig, Registry};
//!
//! let mut registry = Registry::new();
//! dapper_webhook::register(&mut registry);
//!
//! let process = registry.process(ProcessConfig {
//!     name: "notify".into(),
//!     kind: dapper_webhook::KIND.into(),
//!     execution_context: [("url".into(), "http://example.com/hook".into())].into(),
//! })?;
//! assert_eq!(process.id(), "notify");
//! # Ok::<(), dapper_core::RegistryError>(())
//! ```

mod endpoint;
mod error;
mod process;
mod settings;

pub use error::WebhookError;
pub use process::{KIND, WebhookProcess, register};
pub use settings::{DEFAULT_TIMEOUT, MAX_TIMEOUT, METHOD, TIMEOUT, URL};
