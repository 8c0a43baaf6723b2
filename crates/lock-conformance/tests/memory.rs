//! The store in memory keeps every obligation that a store in memory can have.

use std::sync::Arc;

use dapper_lock::{LockStore, MemoryStore};
use dapper_lock_conformance::{Harness, HarnessError, Needs};

struct Memory(Arc<MemoryStore>);

#[async_trait::async_trait]
impl Harness for Memory {
    async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::clone(&self.0) as Arc<dyn LockStore>)
    }
}

async fn fresh_store(_needs: Needs) -> Result<Memory, HarnessError> {
    Ok(Memory(Arc::default()))
}

// It has no process but its own, nothing that outlives it, and no secret.
dapper_lock_conformance::suite!(fresh_store, not_covered: [
    a_restart_frees_nothing,
    a_store_that_was_set_back_is_refused,
    many_processes_count_without_losing_one,
    secrets_do_not_show,
    the_identity_survives_a_restart,
    tokens_grow_across_a_restart,
]);
