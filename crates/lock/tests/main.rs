//! Managers and leases against a store in memory, in paused time.

#![allow(clippy::unwrap_used, reason = "a test that can't go on may panic")]

mod faulty;
mod manager;
mod memory;
