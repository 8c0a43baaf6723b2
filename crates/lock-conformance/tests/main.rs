//! The suite on the store in memory, and on stores that are wrong on purpose.

#![allow(clippy::unwrap_used, reason = "a test that can't go on may panic")]

mod controls;
mod memory;
