//! The command process: runs a program on this machine for each event, and takes exit code 0 for "handled".
//!
//! The event is on the program's standard input, as a line of JSON, and in [`EVENT_VARIABLE`]; no part of it is ever part of
//! the command line. What the program prints is logged, within bounds. It does not retry: that is the orchestrator's. It
//! assumes Unix, and a tokio runtime with time and I/O.
//!
//! # What is killed, and what not
//! The program runs in a process group of its own. The whole group is killed when the program has ended, when its time is
//! up, and when the call is dropped, as it is when the replica stops. What has left the group (by `setsid`, as daemons do)
//! is not killed. A replica that is itself killed by `kill -9` kills nothing: the program goes on to its end, and another
//! replica may run it for the same event meanwhile, with a higher `attempt`.
//!
//! # Configuration
//! The keys of the execution context are [`COMMAND`], [`SHELL`], [`DIRECTORY`], [`KEEP_ENV`], [`TIMEOUT`], and those that
//! begin with [`ENV`]. Their values are secrets: neither a log line nor an error nor `Debug` shows one.
//!
//! ```
//! use dapper_core::{ProcessConfig, Registry};
//!
//! let mut registry = Registry::new();
//! dapper_command::register(&mut registry);
//!
//! let process = registry.process(ProcessConfig {
//!     name: "thumbnail".into(),
//!     kind: dapper_command::KIND.into(),
//!     execution_context: [("command".into(), "/usr/local/bin/thumbnail --size 'small one'".into())].into(),
//! })?;
//! assert_eq!(process.id(), "thumbnail");
//! # Ok::<(), dapper_core::RegistryError>(())
//! ```

mod child;
mod error;
mod process;
mod settings;

pub use dapper_program::EVENT_VARIABLE;
pub use error::CommandError;
pub use process::{CommandProcess, KIND, probe, register};
pub use settings::{COMMAND, DEFAULT_TIMEOUT, DIRECTORY, ENV, KEEP_ENV, KEYS, MAX_TIMEOUT, SHELL, TIMEOUT};
