//! The suite on the store in memory.

mod memory;
