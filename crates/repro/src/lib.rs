//! Bugs that others had with leases, cursors and notifications, shown on a real PostgreSQL.
//!
//! Each [`Row`] is one bug: a scenario, a *naive version* of the mechanism that has the bug in the way it was reported, and
//! dapper's own mechanism in the same scenario. A row is good when the naive version comes to harm and dapper does not;
//! what harm means (lost, repeated without a mark, out of order, two leaders at once …) is counted and said. The rows
//! run from the tests of this crate, a case each, and from `cargo xtask repro`, which also writes the table of
//! `docs/reliability.md`.
//!
//! What it does not do: it says nothing of what the named projects do today; the naive versions are written anew from
//! the descriptions, and most of the bugs were mended long ago. It assumes what `dapper-testkit` assumes.

pub mod capture;
pub mod cursor;
pub mod delivery;
mod fixture;
pub mod leases;
mod list;
mod outbox;
mod row;
pub mod sessions;
mod table;
pub mod wake_up;

pub use list::all;
pub use row::{Harm, Pair, Row, Run, Source};
pub use table::{Outcome, json, listed, markdown, terminal};
