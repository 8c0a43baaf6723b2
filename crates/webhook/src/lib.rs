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
//! The keys of the execution context are [`URL`], [`METHOD`], [`TIMEOUT`], [`SECRET`], [`CONCURRENCY`], [`RATE`], [`BURST`],
//! [`BATCH`], [`LINGER`], and those that begin with [`HEADER`].
//!
//! # The input
//! [`WebhookInput`] listens for requests and makes an event of each, which is answered with 202 only when every process has
//! handled it: nothing is stored, so before that nothing is taken over. Otherwise the answer is 503, and no process is called
//! with the event any more. It needs no lease: every replica listens.
//!
//! # Signatures
//! With a secret, the headers `webhook-id` (as `idempotency-key`), `webhook-timestamp` and `webhook-signature` are those
//! of the Standard Webhooks specification. An event without an `event_id` is then refused.
//!
//! # Batches
//! With a batch size, events that run at the same time go in one call, as an array. Events of one key never run at the same
//! time, so no array holds two of one key, and their order is kept as without. When the call fails, all of its events
//! have failed and come again, with a higher `attempt`; an event that may be a repeat goes in a call of its own, so that one
//! which the endpoint does not want takes no other with it again. `idempotency-key` then stands for exactly this set of
//! events, `dapper-attempt` is the highest of theirs, and `dapper-token` is there when all have the same.
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

mod batch;
mod caller;
mod endpoint;
mod error;
mod input;
mod input_settings;
mod limits;
mod process;
mod receive;
mod settings;
mod signature;

pub use error::WebhookError;
pub use input::{WebhookInput, register_input, validate_input};
pub use input_settings::{
    DEFAULT_INPUT_TIMEOUT, DEFAULT_LISTEN, DEFAULT_MAX_BODY_BYTES, DEFAULT_MAX_WAITING, INPUT_KEYS,
    INPUT_SECRET, INPUT_TIMEOUT, LISTEN, MAX_BODY_BYTES, MAX_INPUT_TIMEOUT, MAX_WAITING, TOKEN,
};
pub use process::{KIND, WebhookProcess, register};
pub use settings::{
    BATCH, BURST, CONCURRENCY, DEFAULT_LINGER, DEFAULT_TIMEOUT, HEADER, KEYS, LINGER, MAX_BATCH, MAX_LINGER,
    MAX_TIMEOUT, METHOD, RATE, SECRET, TIMEOUT, URL,
};
