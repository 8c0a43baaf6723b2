//! The tests that every lock store must pass.

use std::fs;
use std::sync::Arc;

use custom_lock_store::FileStore;
use dapper_lock::LockStore;
use dapper_lock_conformance::{Harness, HarnessError, Needs};
use tempfile::TempDir;

struct Files(TempDir);

async fn fresh_store(_needs: Needs) -> Result<Files, HarnessError> {
    Ok(Files(TempDir::new()?))
}

#[async_trait::async_trait]
impl Harness for Files {
    async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::new(FileStore::new(self.0.path())))
    }

    fn address(&self) -> Result<String, HarnessError> {
        Ok(self.0.path().display().to_string())
    }

    async fn attach(address: &str) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::new(FileStore::new(address)))
    }

    /// There is no server to restart: whatever is not in the file is not there.
    async fn restart(&self) -> Result<(), HarnessError> {
        Ok(())
    }

    async fn back_up(&self) -> Result<(), HarnessError> {
        fs::copy(self.0.path().join("leases"), self.0.path().join("backup"))?;
        Ok(())
    }

    async fn restore(&self) -> Result<(), HarnessError> {
        fs::rename(self.0.path().join("backup"), self.0.path().join("leases"))?;
        Ok(())
    }
}

dapper_lock_conformance::suite!(fresh_store, not_covered: [secrets_do_not_show]);

#[tokio::test]
async fn a_damaged_file_is_an_error_and_stays() {
    let files = fresh_store(Needs::default()).await.unwrap();
    let path = files.0.path().join("leases");
    for damage in ["", "no identity\n", "00000000-0000-4000-8000-000000000000\n1 half a line\n"] {
        fs::write(&path, damage).unwrap();
        let error = files.open().await.unwrap().store_id().await.unwrap_err();
        assert_eq!(error.kind, dapper_lock::LockErrorKind::Inconsistent);
        assert_eq!(fs::read_to_string(&path).unwrap(), damage);
    }
}
