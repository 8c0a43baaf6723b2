//! The program `dapper`, and how to build one like it that knows lock backends, inputs and processes of your own.
//!
//! An [`App`] has all commands of `dapper` and all that is built in; what is added can be named in a pipeline file like
//! the rest, and mistakes in it are told in the same way. This is the only crate that reads the environment, and
//! `backends` is its only module that names the concrete inputs, processes and lock stores.
//!
//! What it does not do: it holds no logic of delivery, locking or capture; those are crates of their own, which a
//! program can use without it. It assumes that it has the process to itself: it listens for signals, logs to standard
//! error, and prints results to standard output. A secret of the pipeline file goes to none of them.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//!
//! use dapper_lock::MemoryStore;
//! use dapper_orchestrator_cli::{App, LockBackend};
//!
//! fn main() -> ExitCode {
//!     let mine = LockBackend::new(&["address"], |config| {
//!         let _address = config.required_text("address")?;
//!         Ok(Arc::new(MemoryStore::new()))
//!     });
//!     App::new().lock_backend("mine", mine).main()
//! }
//! ```

mod app;
mod arguments;
mod assembly;
mod backends;
mod commands;
mod etcd;
mod http;
mod locks;
mod logging;
mod pipeline;
mod stop;

pub use app::App;
pub use locks::{LockBackend, LockConfig, LockConfigError, ProbeError};
