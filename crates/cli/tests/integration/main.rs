//! The `dapper` binary from outside, most of it without any server.
#![allow(clippy::unwrap_used, reason = "tests")]

mod check;
#[cfg(feature = "etcd")]
mod etcd;
mod failing;
mod failover;
mod http;
mod install;
mod large;
mod lock_faults;
mod many;
mod moving;
mod operating;
mod operations;
mod process_docs;
mod processes;
mod refusals;
mod running;
mod servers;
mod sql;
mod support;
mod takeover;
mod uninstall;
