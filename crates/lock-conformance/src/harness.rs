//! What the author of a store brings along.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapper_lock::LockStore;

/// One fresh store of the kind under test, and what can be done to it from outside.
///
/// Only [`open`](Self::open) has to be written. Each other method adds an ability; a case that needs one which is not
/// there is reported as not covered.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// Opens the store as a process of its own would: shares nothing with other handles but the store itself. A store
    /// that lives in one process only gives out the same one again.
    async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError>;

    /// The step in which the store counts times to live: a grant may last as much longer. A millisecond by default.
    fn ttl_granularity(&self) -> Duration {
        Duration::from_millis(1)
    }

    /// Stops the store as by a crash and starts it again with what it keeps. Handles that were opened before need not
    /// work afterwards.
    async fn restart(&self) -> Result<(), HarnessError> {
        Err(HarnessError::unsupported("restart"))
    }

    /// Takes a copy of everything that the store keeps, for [`restore`](Self::restore).
    async fn back_up(&self) -> Result<(), HarnessError> {
        Err(HarnessError::unsupported("back_up"))
    }

    /// Puts the last copy in the place of what the store keeps, as somebody does who restores a backup.
    async fn restore(&self) -> Result<(), HarnessError> {
        Err(HarnessError::unsupported("restore"))
    }

    /// What another process on this machine needs in order to [`attach`](Self::attach) to this very store.
    fn address(&self) -> Result<String, HarnessError> {
        Err(HarnessError::unsupported("address"))
    }

    /// Opens the store at `address`, in another process than the one that made it.
    async fn attach(_address: &str) -> Result<Arc<dyn LockStore>, HarnessError>
    where
        Self: Sized,
    {
        Err(HarnessError::unsupported("attach"))
    }

    /// Opens handles that use `canary` as a password or another secret, in each way in which a user could hand it
    /// over. None of them needs to work.
    async fn open_with_secret(&self, _canary: &str) -> Result<Vec<Suspect>, HarnessError> {
        Err(HarnessError::unsupported("open_with_secret"))
    }
}

/// A handle that knows a secret.
#[allow(missing_debug_implementations, reason = "a store need not have Debug; its text is in the field")]
pub struct Suspect {
    /// The handle.
    pub store: Arc<dyn LockStore>,
    /// What `Debug` shows of it; empty when its type has no `Debug`.
    pub debug: String,
}

/// What a case will do to the store; for a factory that needs to know it beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// It restarts the store: give it one that nobody else uses.
    pub restart: bool,
    /// It takes a copy of the store and restores it.
    pub restore: bool,
    /// Other processes attach to the store.
    pub processes: bool,
    /// It opens handles with secrets.
    pub secrets: bool,
}

/// Why a harness did not do what a case asked for. Every error turns into one by `?`.
#[derive(Debug)]
pub struct HarnessError(pub(crate) Reason);

#[derive(Debug)]
pub(crate) enum Reason {
    Unsupported(&'static str),
    Failed(Box<dyn Error + Send + Sync>),
}

impl HarnessError {
    /// The harness does not have the method `what`: the case is not covered.
    #[must_use]
    pub fn unsupported(what: &'static str) -> Self {
        Self(Reason::Unsupported(what))
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HarnessError {
    fn from(error: E) -> Self {
        Self(Reason::Failed(error.into()))
    }
}
