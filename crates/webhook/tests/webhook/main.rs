//! The process against real servers.

#![allow(clippy::unwrap_used)] // Test code throughout; the lint knows only functions marked as tests.

mod batches;
mod input;
mod requests;
mod secrets;
mod server;
mod signed;
mod tls;
mod unhappy;
