//! The lease machine under simulated faults.

mod broken;
pub mod driver;
pub mod model;
mod row;
pub mod simulation;
pub mod store;

pub use broken::Break;
pub use row::{Row, RowRequest};
