//! The process with a real engine. Where there is none, each test that needs one says so by its name on standard error.

#![allow(clippy::unwrap_used)] // Test code throughout; the lint knows only functions marked as tests.

mod refusals;
mod runs;
mod support;
