//! Runs a directed acyclic graph of [`Input`](dapper_core::Input)s and [`Process`](dapper_core::Process)es.
//!
//! It starts inputs and starts them again when they fail, hands each event to the processes behind its input, in
//! order per key and up to a limit at the same time, retries what fails, and acknowledges an event to its input
//! once every process it can reach has handled it. It knows no database, reads no configuration and keeps nothing
//! on disk: what must outlive this process, the inputs remember.
//!
//! # Order and concurrency
//! The *key* of an event is its input, `location` and `id`. A process sees the events of one key one after the
//! other, in the order of their delivery; events of different keys run at the same time, up to
//! [`concurrency`](OrchestratorBuilder::concurrency) over the whole graph. A process with several predecessors
//! handles an event once, after all of them have.
//!
//! # Failure
//! A run that fails, or panics, is repeated after a growing delay with a higher
//! [`attempt`](dapper_core::Event::attempt). Where the input has a [`Parking`](dapper_core::Parking), the event and those of
//! its key behind it go there after a few quick attempts, and it is a dead letter after the last one: see
//! [`RetryPolicy`]. Elsewhere it is tried for ever, in memory; until it succeeds the later events of its key wait behind
//! it and all other keys go on. It is assumed that inputs keep their receipts: events of a
//! [`handle`](dapper_core::Input::handle) that has ended are abandoned, because nobody counts them any more.
//!
//! ```
//! # use std::sync::Arc;
//! # use dapper_core::*;
//! use dapper_orchestrator::Orchestrator;
//! # struct Once;
//! # #[async_trait::async_trait]
//! # impl Input for Once {
//! #     fn id(&self) -> &str { "orders" }
//! #     async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
//! #         let event = Event::new("orders", Operation::Create, "42", "orders");
//! #         sink.send_events(vec![event]).await.unwrap().await;
//! #         stop.cancel();
//! #         Ok(stop.cancelled().await)
//! #     }
//! # }
//! # struct Print;
//! # #[async_trait::async_trait]
//! # impl Process for Print {
//! #     fn id(&self) -> &str { "print" }
//! #     async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
//! #         println!("{}", event.to_json());
//! #         Ok(ProcessStatus::success("print"))
//! #     }
//! # }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let orchestrator = Orchestrator::builder()
//!     .add_input(Arc::new(Once))
//!     .add_process(Arc::new(Print))
//!     .add_link("orders", "print")
//!     .build()?;
//! let stop = CancellationToken::new();
//! # stop.cancel();
//! orchestrator.run(stop).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

#[macro_use]
mod failpoint;

mod builder;
mod diagram;
mod dispatch;
mod error;
mod filter;
mod keep;
mod lanes;
mod log_process;
mod meter;
mod orchestrator;
mod plan;
mod reach;
mod report;
mod retry;
mod span;
mod supervise;
mod ticket;

pub use builder::{GraphError, GraphWarning, OrchestratorBuilder};
pub use error::{FailureCause, OrchestratorError, RunError};
pub use filter::{Condition, Filter, FilterError, Source, Test, Value};
pub use log_process::{LogProcess, register};
pub use orchestrator::Orchestrator;
pub use retry::RetryPolicy;
