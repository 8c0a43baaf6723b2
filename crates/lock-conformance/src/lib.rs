//! The tests that every [`LockStore`](dapper_lock::LockStore) must pass, as a dev-dependency of the crate that has one.
//!
//! Each case holds the store to one obligation of the contract, on a fresh store, from outside: through handles as
//! several processes have them, and where the [`Harness`] allows it across restarts, restored backups and processes.
//! [`suite!`] makes a `#[test]` of each; programs run them by [`cases`] and [`Case::run`].
//!
//! What this crate does not do: it proves nothing about times that no test can wait for, about clocks that go wrong, or
//! about a network that splits; and it does not measure. It assumes a machine on which a call is answered within two
//! seconds, and a store that ends a term at most five seconds late.
//!
//! ```
//! use std::sync::Arc;
//!
//! use dapper_lock::{LockStore, MemoryStore};
//! use dapper_lock_conformance::{Harness, HarnessError, Needs};
//!
//! struct Memory(Arc<MemoryStore>);
//!
//! #[async_trait::async_trait]
//! impl Harness for Memory {
//!     async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError> {
//!         Ok(Arc::clone(&self.0) as Arc<dyn LockStore>)
//!     }
//! }
//!
//! async fn fresh_store(_needs: Needs) -> Result<Memory, HarnessError> {
//!     Ok(Memory(Arc::default()))
//! }
//!
//! mod conformance {
//!     dapper_lock_conformance::suite!(super::fresh_store, not_covered: [
//!         tokens_grow_across_a_restart, a_restart_frees_nothing, the_identity_survives_a_restart,
//!         a_store_that_was_set_back_is_refused, many_processes_count_without_losing_one, secrets_do_not_show,
//!     ]);
//! }
//! # fn main() {}
//! ```

mod cancel;
mod case;
mod cases;
mod client;
mod harness;
mod list;
mod suite;
mod worker;

pub use case::{CASE_LIMIT, Case, Outcome};
pub use harness::{Harness, HarnessError, Needs, Suspect};
pub use list::cases;
#[doc(hidden)]
pub use suite::{__left_out, __run};
pub use worker::Worker;
