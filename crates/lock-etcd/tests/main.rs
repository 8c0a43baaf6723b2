//! The store on a real etcd: one for all tests with keys of their own for each, and private ones to be disturbed.

#![allow(clippy::unwrap_used, reason = "a test that can't go on may panic")]

mod access;
mod conformance;
mod faults;
mod restarts;
mod store;
mod support;
mod takeover;
