//! Lock backends by name.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use dapper_lock::LockStore;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

/// A kind of lock store that pipeline files can name.
pub struct LockBackend {
    pub(crate) keys: &'static [&'static str],
    new: NewLockStore,
    probe: Option<Probe>,
    remains: Option<Remains>,
}

type NewLockStore = Box<dyn Fn(&LockConfig) -> Result<Arc<dyn LockStore>, LockConfigError> + Send + Sync>;
type Probe = Box<dyn Fn(&LockConfig) -> BoxFuture<'static, Result<Option<String>, ProbeError>> + Send + Sync>;
/// Why a lock store can't be used.
pub type ProbeError = Box<dyn Error + Send + Sync>;
type Remains = Box<dyn Fn(&LockConfig) -> Option<String> + Send + Sync>;

/// What `[lock]` says besides `backend` and `ttl`. `Debug` shows the keys without their values.
#[derive(Clone, Default)]
pub struct LockConfig {
    pub(crate) options: Map<String, Value>,
}

/// What is wrong with a [`LockConfig`], in which of its keys. Must not show a value that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct LockConfigError {
    /// The key at fault, where there is one.
    pub key: Option<String>,
    /// What is wrong and what to do about it.
    pub reason: String,
}

impl LockBackend {
    /// A backend that takes `keys` in `[lock]`, besides `backend` and `ttl`, and makes its store by `new`.
    ///
    /// `new` is called for `check`, too: it looks at the configuration and reaches out to nothing.
    #[must_use]
    pub fn new<F>(keys: &'static [&'static str], new: F) -> Self
    where
        F: Fn(&LockConfig) -> Result<Arc<dyn LockStore>, LockConfigError> + Send + Sync + 'static,
    {
        Self { keys, new: Box::new(new), probe: None, remains: None }
    }

    /// Tries the store's address before a pipeline starts, and for `check`: it says what is there, if
    /// the configuration names an address at all, and changes nothing.
    #[must_use]
    pub fn with_probe<F>(mut self, probe: F) -> Self
    where
        F: Fn(&LockConfig) -> BoxFuture<'static, Result<Option<String>, ProbeError>> + Send + Sync + 'static,
    {
        self.probe = Some(Box::new(probe));
        self
    }

    /// Says what `uninstall` leaves behind, and how it is removed.
    #[must_use]
    pub fn with_remains<F>(mut self, remains: F) -> Self
    where
        F: Fn(&LockConfig) -> Option<String> + Send + Sync + 'static,
    {
        self.remains = Some(Box::new(remains));
        self
    }

    pub(crate) fn store(&self, config: &LockConfig) -> Result<Arc<dyn LockStore>, LockConfigError> {
        (self.new)(config)
    }

    pub(crate) async fn probe(&self, config: &LockConfig) -> anyhow::Result<Option<String>> {
        match &self.probe {
            Some(probe) => probe(config).await.map_err(anyhow::Error::from_boxed),
            None => Ok(None),
        }
    }

    pub(crate) fn remains(&self, config: &LockConfig) -> Option<String> {
        self.remains.as_ref().and_then(|remains| remains(config))
    }
}

impl LockConfig {
    /// The text under `key`; `None` when the key is not there.
    ///
    /// # Errors
    /// When it is no text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, LockConfigError> {
        match self.options.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(LockConfigError::new(key, format!("{key:?} must be text in quotes"))),
        }
    }

    /// The text under `key`, which must be there.
    ///
    /// # Errors
    /// When it is missing or no text.
    pub fn required_text(&self, key: &str) -> Result<&str, LockConfigError> {
        let missing = || LockConfigError { key: None, reason: format!("missing key {key:?} in [lock]") };
        self.text(key)?.ok_or_else(missing)
    }

    /// Whatever is under `key`, with the variables of its texts put in.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.options.get(key)
    }
}

impl LockConfigError {
    /// Something is wrong with the value of `key`.
    #[must_use]
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: Some(key.into()), reason: reason.into() }
    }
}

impl fmt::Debug for LockConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockConfig").field("keys", &self.options.keys().collect::<Vec<_>>()).finish()
    }
}

impl fmt::Debug for LockBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockBackend").field("keys", &self.keys).finish_non_exhaustive()
    }
}
