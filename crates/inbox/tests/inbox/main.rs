//! The inbox on a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests")]

mod accepting;
mod concurrency;
mod documentation;
mod installing;
mod model;
mod pruning;
mod support;
