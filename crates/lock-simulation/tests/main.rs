//! The lease machine under simulated faults and in the model, each rule broken on purpose included.

mod model;
mod simulation;
