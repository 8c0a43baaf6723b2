//! The testkit against real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod container;
mod database;
mod demo;
#[cfg(feature = "etcd")]
mod etcd;
mod failover;
mod namespace;
mod proxy;
mod receiver;
mod server;
mod survivors;
mod workload;
