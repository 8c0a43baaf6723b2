//! Managers and leases against a store in memory, in paused time where nothing depends on threads.

#![allow(clippy::unwrap_used, reason = "a test that can't go on may panic")]

mod faulty;
mod hanging;
mod late;
mod manager;
mod memory;
