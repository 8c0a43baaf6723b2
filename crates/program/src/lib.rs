//! What processes that run programs have in common: words of a command line, the variable that holds an event, and what
//! becomes of output.
//!
//! It starts nothing and reads nothing. It assumes that a subscriber of `tracing` takes the lines.
//!
//! ```
//! use dapper_program::{Lines, Log, Tail};
//!
//! let log = Log::new("thumbnail", ["s3cr3t"].into_iter());
//! let tail = Tail::default();
//! let mut lines = Lines::new(&log, "stderr", Some(&tail));
//! lines.push(b"no permission with s3cr");
//! lines.push(b"3t\n");
//! assert_eq!(tail.said(), ": no permission with ***");
//! ```

mod output;
mod variables;
mod words;

pub use output::{Lines, Log, Tail};
pub use variables::{EVENT_VARIABLE, event_variable, is_name};
pub use words::split;
