//! [`LockStore`](dapper_lock::LockStore) on etcd: for those who have a cluster of it and want leases that outlive the
//! loss of a machine. What it does not do: run etcd, poll, or read wall clocks.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use dapper_lock::{LeaseConfig, LockManager, Resource};
//! use dapper_lock_etcd::{EtcdLockOptions, EtcdLockStore};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let address = "https://dapper:secret@one.example:2379,https://two.example:2379".into();
//! let store = EtcdLockStore::new(EtcdLockOptions::from_connection_string(&address)?);
//! let manager = LockManager::new(Arc::new(store), LeaseConfig::from_ttl(Duration::from_secs(10))?);
//! let lease = manager.acquire(&Resource::new("orders_input")?).await?;
//! # lease.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The key decides
//!
//! A term is one key, `<prefix>leases/<resource>`, with the holder's name in it, bound to an *etcd lease* of its own: etcd
//! removes the key when that ends. A grant first makes the etcd lease and then, in one transaction, the key *if there is
//! none*. Renewing keeps the etcd lease alive; releasing removes the key, in a transaction, if revision and holder are the
//! term's. A standby watches the key from the revision at which it saw it, so it misses no end of a term.
//!
//! # Why there are never two holders
//!
//! 1. Transactions of etcd are one after the other, in the same order everywhere, and answered only once a majority has
//!    them on disk. So of all that ask for a free resource one makes the key.
//! 2. While the key is there nobody else gets the resource. It goes by three ways: its holder releases it, which that
//!    does when it trusts no more; somebody removes it by hand, which [`ended`](dapper_lock::LockStore::ended) reports; or
//!    its etcd lease ends.
//! 3. An etcd lease ends no sooner than its time to live after etcd has made it or kept it alive. Both come after the
//!    holder sent its request, from when it counts its own trust. The time is the leader's own, by a clock that does not
//!    jump. Whole seconds are rounded up. A new leader, and a member that was restarted, lets every etcd lease run for its
//!    whole time again, so a term may live longer than it should and never shorter. (With
//!    `--experimental-enable-lease-checkpoint` it goes on with what was left at the last checkpoint, which is no less than
//!    what is left.)
//! 4. A leader that was replaced and does not know it yet keeps alive whatever it is asked to. So a renewal asks
//!    afterwards, by a read that needs a majority, whether the key is still the very term's.
//! 5. An answer that does not come is an error. A grant whose answer was lost is *held by the caller* for the next try; it
//!    is not granted a second time. The store revokes its etcd lease in the background if it can, and a call that is
//!    dropped midway does the same.
//!
//! Against what etcd itself gets wrong (some versions before 3.5.13 let a replaced leader end etcd leases that its
//! successor kept alive), and between the removal of a key by hand and the message that tells the holder, only the token
//! helps: whatever is protected must compare it.
//!
//! # Why tokens grow
//!
//! The token is the revision at which the key was made. The revision counts the changes of the whole store: each makes it
//! greater, nothing makes it smaller, neither the removal of keys nor compaction, defragmentation, a restart, or another
//! leader, since it is part of what a majority has on disk. No two transactions that change something share one. So each
//! grant's token is higher than all before it, of every resource; it grows by more than one.
//!
//! A *restored* etcd goes back to the revision of its backup (unless it is raised with `--bump-revision`), and to the same
//! identity. Tokens then may be lower than earlier ones: a [`LockManager`](dapper_lock::LockManager) that has seen a higher
//! one refuses the grant, and so does whatever compares tokens. An etcd that was *emptied* has another
//! [`StoreId`](dapper_lock::StoreId), which is drawn at random into `<prefix>store` when it is first asked for.
//!
//! # How fast, and what it costs
//!
//! A release, and any other removal of the key, reaches standbys by their watch within milliseconds. A holder that is
//! killed is followed when its time to live has passed and up to a second later: etcd has no session that would tell
//! sooner, and looks for ends every half second. It makes no term shorter than one and a half times its election timeout:
//! two seconds by default.
//!
//! A process has one connection. A renewal is four requests that write nothing. A standby has one watch open, and makes
//! four requests each time the remaining time that it was told has passed: 50 standbys of one lease of ten seconds make
//! 20 requests a second together and write nothing. After a release each of them tries: three requests, two of which etcd
//! writes to disk.
//!
//! # What it assumes
//!
//! etcd 3.4 or newer, all endpoints of one cluster; a role that may read and write keys with the prefix; a tokio runtime
//! with time and I/O enabled around each call. It may be used from several runtimes, and connects in each. With `https`,
//! certificates are checked against the system's roots or those that the options name.

mod connection;
mod error;
mod keys;
mod options;
mod requests;
mod store;
mod watch;

pub use error::{ClientError, EtcdLockError};
pub use options::{AddressError, Endpoint, EtcdLockOptions, EtcdUser};
pub use store::{EtcdLockStore, Probed};
