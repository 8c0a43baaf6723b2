//! The store on a real PostgreSQL: a throw-away server, a database for each test.

#![allow(clippy::unwrap_used, reason = "a test that can't go on may panic")]

mod conformance;
mod faults;
mod install;
mod pooler;
mod store;
mod support;
mod takeover;
