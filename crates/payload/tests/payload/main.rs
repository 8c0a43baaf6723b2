//! What the parser and the writer promise, seen from outside.

#![allow(clippy::unwrap_used)] // Test code throughout; the lint knows only functions marked as tests.

mod allocations;
mod changes;
mod corpus;
mod errors;
mod limits;
mod properties;
