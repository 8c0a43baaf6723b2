//! What dapper's tests, demo and benches need around the thing under test: a throw-away PostgreSQL ([`Server`]), a
//! database for each test ([`Database`]), a throw-away etcd ([`EtcdServer`]), writers ([`Workload`]), replicas as processes ([`Cluster`]), a webhook
//! receiver ([`Receiver`]), and a check that what was received is what was committed ([`history`]).
//!
//! Nothing here is published or enters a normal dependency of a product crate, and nothing here needs a product crate.
//! It assumes a Unix with `/bin/sh`. What it starts does not survive it, whatever way it ends.
//!
//! ```
//! use dapper_testkit::Database;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let database = Database::create().await?;
//! let client = database.connect().await?;
//! client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY)").await?;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

pub mod chaos;
mod cluster;
mod database;
mod etcd;
pub mod failing_key;
pub mod failover;
mod guardian;
pub mod history;
mod namespace;
mod packages;
mod pooler;
mod process;
mod proxy;
mod receiver;
mod scratch;
mod server;
mod workload;

use std::error::Error;
use std::io::Write;

pub use cluster::{Cluster, ClusterOptions, Leader, Log, LogLine, NotInTime, Replica, ReplicaOptions};
pub use database::{Database, connect};
pub use etcd::{EtcdOptions, EtcdServer};
pub use namespace::Namespace;
pub use pooler::pooler;
pub use proxy::{Faults, Flow, ProxiedConnection, Proxy};
pub use receiver::{Memory, Received, Receiver, Reply, TooFew};
pub use server::{Frozen, Server, ServerError, ServerOptions, StopMode};
pub use workload::{TABLES, Workload, WorkloadOptions};

/// Says something to whoever runs the tests. Not by `eprintln!`, which the test harness keeps back.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "dapper-testkit: {text}");
}

/// An error and its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
