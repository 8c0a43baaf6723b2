//! The SQL process on a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests")]

mod connections;
mod effects;
mod support;
mod values;
