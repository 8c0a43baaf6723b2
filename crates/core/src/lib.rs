//! The vocabulary of the dapper pipeline orchestrator: what an [`Event`] is, what an [`Input`] and a
//! [`Process`] must do, and how an input learns what became of the events it handed over.
//!
//! This crate does no I/O, starts no task and knows no database. It assumes only that futures are polled.
//!
//! ```
//! use dapper_core::{Event, Operation};
//!
//! let event = Event::new("orders", Operation::Delete, "42", "orders_input");
//! assert_eq!(
//!     event.to_json(),
//!     r#"{"location":"orders","operation":"delete","id":"42","trigger":"orders_input"}"#
//! );
//! ```

mod config;
mod delivery;
mod event;
mod input;
mod operation;
mod parking;
mod pattern;
mod process;
mod registry;

pub use config::{InputConfig, ProcessConfig};
pub use delivery::{Acknowledgement, Delivery, Receipt, Terms, Validity};
pub use event::{Event, RawJson};
pub use input::{ErrorKind, EventSink, Input, InputError, SinkClosed};
pub use operation::{Operation, UnknownOperation};
pub use parking::{Entry, Fate, Parcel, Parking, Settle, Stored};
pub use pattern::glob;
pub use process::{Process, ProcessError, ProcessExitStatus, ProcessStatus};
pub use registry::{NewInputFunc, NewProcessFunc, Registry, RegistryError};

/// Tells an input to stop gracefully; re-exported so that implementers need no further dependency.
pub use tokio_util::sync::CancellationToken;
