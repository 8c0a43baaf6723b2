//! The process with real programs.

#![allow(clippy::unwrap_used)] // Test code throughout; the lint knows only functions marked as tests.

mod endings;
mod killed;
mod secrets;
mod support;
mod taken;
