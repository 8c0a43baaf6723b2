//! Leases: who may act for a resource, for how long, and how a holder learns that it no longer may.
//!
//! A lock here is a *lease*, and a lease is a [`Term`]: a resource, a holder and a [`FencingToken`] that the store
//! issued for this one grant. [`LockManager::acquire`] waits for the lease, a thread of the manager renews it, and
//! [`Lease::is_valid`] answers from memory whether the holder may still act. Trust ends at *request sent + time to live
//! − margin*, on a clock that goes on while the machine is suspended; an answer that comes later never revives it.
//!
//! What this crate does not do: it contains no database client (backends implement [`LockStore`] in crates of their
//! own; [`MemoryStore`] is for tests and single processes), and it does not make a stale holder's writes harmless. For
//! that the protected resource must compare fencing tokens and refuse a lower one than it has seen.
//!
//! It assumes a tokio runtime around [`LockManager::acquire`], and that the local clock's *rate* differs from the
//! store's by less than `margin / ttl`. Wall clocks are never read.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use dapper_lock::{LeaseConfig, LockManager, MemoryStore, Resource};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = LeaseConfig::from_ttl(Duration::from_secs(10))?;
//! let manager = LockManager::new(Arc::new(MemoryStore::new()), config);
//! let lease = manager.acquire(&Resource::new("orders_input")?).await?;
//! assert!(lease.is_valid());
//! assert_eq!(lease.token().get(), 1);
//! lease.release().await?;
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap();
//! ```

#[macro_use]
mod failpoint;

mod backoff;
mod clock;
mod config;
mod driver;
mod error;
mod lease;
pub mod machine;
mod manager;
mod memory;
mod store;
mod term;
mod worker;

pub use clock::{BootClock, Clock, Timestamp};
pub use config::{LeaseConfig, LeaseConfigError};
pub use error::{LockError, LockErrorKind};
pub use lease::{Lease, LeaseValidity, LossReason};
pub use manager::{LockManager, LockManagerOptions};
pub use memory::MemoryStore;
pub use store::{HeldBy, LockStore, Renewal, TryAcquire};
pub use term::{FencingToken, HolderId, Resource, ResourceError, StoreId, Term};
