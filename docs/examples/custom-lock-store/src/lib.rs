//! Leases in a file, for replicas on one machine: a [`LockStore`] to read and to copy, not a product.
//!
//! All leases are lines of one file, which is replaced as a whole; an advisory lock on a second file lets one process at
//! a time do that. It assumes one machine and a local file system.

mod leases;

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use dapper_lock::{
    FencingToken, HeldBy, HolderId, LockError, LockErrorKind, LockStore, Renewal, Resource, StoreId, Term,
    TryAcquire,
};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use leases::{Lease, Leases};

/// How long a call may wait for other processes.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two looks at who holds.
const POLL: Duration = Duration::from_millis(20);

/// Keeps leases in a directory, which is made when it is first used. Clones share it.
#[derive(Clone, Debug)]
pub struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// The store in `directory`.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Runs `change` on the leases while no other process does, and keeps what it changed.
    ///
    /// In a thread: files block. When the caller goes away, it comes to its end all the same.
    async fn with<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Leases) -> T + Send + 'static,
    ) -> Result<T, LockError> {
        let store = self.clone();
        let done = spawn_blocking(move || {
            let _locked = store.lock()?;
            let path = store.directory.join("leases");
            let mut leases = Leases::read(&path)?;
            let before = leases.clone();
            let answer = change(&mut leases);
            if leases != before || !path.exists() {
                leases.write(&path)?;
            }
            Ok(answer)
        });
        done.await.unwrap_or_else(|panic| Err(unavailable(panic)))
    }

    /// Lets one process at a time go on. A process that dies lets go; one that hangs costs the others their patience.
    fn lock(&self) -> Result<File, LockError> {
        fs::create_dir_all(&self.directory).map_err(unavailable)?;
        let file = File::create(self.directory.join("lock")).map_err(unavailable)?;
        for _ in 0..PATIENCE.as_millis() {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
                Err(TryLockError::Error(error)) => return Err(unavailable(error)),
            }
        }
        Err(LockError::new("file", LockErrorKind::Timeout))
    }
}

#[async_trait]
impl LockStore for FileStore {
    async fn store_id(&self) -> Result<StoreId, LockError> {
        self.with(|leases| leases.id).await
    }

    async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire, LockError> {
        let (resource, holder) = (resource.clone(), *holder);
        let granted = self.with(move |leases| {
            let last = leases.of(&resource);
            if let Some(held_by) = last.and_then(Lease::held_by) {
                return Some(TryAcquire::Held(held_by));
            }
            // The last token is there as long as the file, whatever became of its term.
            let token = last.map_or(Some(FencingToken::FIRST), |lease| lease.token.next())?;
            leases.put(&resource, Lease::running(holder, token, ttl));
            Some(TryAcquire::Granted(token))
        });
        granted.await?.ok_or_else(|| LockError::new("file", LockErrorKind::Refused))
    }

    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError> {
        let term = term.clone();
        let renewed = self.with(move |leases| {
            let running = leases.of(&term.resource).and_then(Lease::held_by);
            if running.is_none_or(|by| (by.holder, by.token) != (term.holder, term.token)) {
                return Renewal::NotHolder;
            }
            leases.put(&term.resource, Lease::running(term.holder, term.token, ttl));
            Renewal::Renewed
        });
        renewed.await
    }

    async fn release(&self, term: &Term) -> Result<(), LockError> {
        let term = term.clone();
        let released = self.with(move |leases| {
            let last = leases.of(&term.resource);
            if last.is_some_and(|last| (last.holder, last.token) == (term.holder, term.token)) {
                leases.put(&term.resource, Lease::over(term.holder, term.token));
            }
        });
        released.await
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        let resource = resource.clone();
        self.with(move |leases| leases.of(&resource).and_then(Lease::held_by)).await
    }

    async fn wait(&self, resource: &Resource, _holder: &HolderId, limit: Duration) -> Result<(), LockError> {
        let looking = async {
            while self.holder(resource).await?.is_some() {
                sleep(POLL).await;
            }
            Ok(())
        };
        tokio::time::timeout(limit, looking).await.unwrap_or(Ok(()))
    }

    async fn ended(&self, _term: &Term) {
        // A file tells nobody anything: a holder learns it when it renews.
        std::future::pending::<()>().await;
    }
}

pub(crate) fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> LockError {
    LockError::with_source("file", LockErrorKind::Unavailable, error)
}
