//! The orchestrator from outside: graphs of inputs and processes that do what a test says.
#![allow(clippy::unwrap_used, reason = "tests")]

mod dag;
mod filters;
mod graph;
mod order;
mod retry;
mod stop;
mod supervision;
mod support;
