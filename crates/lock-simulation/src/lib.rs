//! Proof, as far as machines can give it, that the leases of `dapper-lock` keep their promises.
//!
//! The production [`Machine`](dapper_lock::machine::Machine) runs here inside a [`Driver`](driver::Driver) that does
//! what `LockManager`'s own driver does, against a [`store`] that is the contract of
//! [`LockStore`](dapper_lock::LockStore) and nothing more, and a [`Row`] that is fenced as the cursor row is.
//! [`simulation`] lets N of them run in simulated time with random faults, a run per seed; [`model`] goes through every
//! interleaving of a small configuration. Both know a few [ways to be broken](Break), and must notice each.
//!
//! What it does not do: run the real driver, its threads and timers, or a real store. Those have tests of their own,
//! against real servers. It assumes that the driver and the store here do what the real ones do.
//!
//! ```
//! use dapper_lock_simulation::{Break, simulation};
//!
//! assert!(simulation::simulate(7, None).violations.is_empty());
//! // The same seed, with holders that trust their terms from the answer on: seen at once.
//! assert!((0..100).any(|seed| !simulation::simulate(seed, Some(Break::Anchor)).violations.is_empty()));
//! ```

mod broken;
pub mod driver;
pub mod model;
mod row;
pub mod simulation;
pub mod store;
mod violation;

pub use broken::Break;
pub use row::{Row, RowRequest};
pub use violation::Violation;
