//! Connections to a real PostgreSQL server that does TLS.

#![allow(clippy::unwrap_used, reason = "tests")]

mod certificates;
mod clients;
mod documentation;
mod downgrade;
mod hosts;
mod modes;
mod support;
