//! The lock backend "etcd": there with the feature `etcd`, a clear error without it.

#[cfg(feature = "etcd")]
pub(crate) use present::backend;

#[cfg(not(feature = "etcd"))]
pub(crate) use absent::backend;

#[cfg(feature = "etcd")]
mod present {
    use std::sync::Arc;

    use dapper_lock_etcd::{EtcdLockOptions, EtcdLockStore};
    use secrecy::SecretString;

    use crate::locks::{LockBackend, LockConfig, LockConfigError, ProbeError};
    use crate::pipeline::CONNECTION_STRING;

    pub(crate) fn backend() -> LockBackend {
        LockBackend::new(&[CONNECTION_STRING], |config| Ok(Arc::new(store(config)?)))
            .with_probe(|config| {
                let store = store(config);
                Box::pin(async move {
                    let probed = store?.probe().await?;
                    Ok::<_, ProbeError>(Some(format!("etcd {} at {}", probed.version, probed.endpoint)))
                })
            })
            .with_remains(|_| {
                let key = format!("{}store", EtcdLockOptions::default().prefix);
                Some(format!(
                    "lock: the key {key} stays in etcd, since other pipelines may share it; \
                     when none does, etcdctl del {key} removes it"
                ))
            })
    }

    /// The store that the `[lock]` section names. Connects to nothing.
    fn store(config: &LockConfig) -> Result<EtcdLockStore, LockConfigError> {
        let wrong = |reason: String| LockConfigError::new(CONNECTION_STRING, reason);
        let address = config.text(CONNECTION_STRING)?.ok_or_else(|| {
            let example = "http://one:2379,http://two:2379";
            wrong(format!("the lock backend \"etcd\" needs a \"{CONNECTION_STRING}\", such as {example}"))
        })?;
        let options = EtcdLockOptions::from_connection_string(&SecretString::from(address))
            .map_err(|error| wrong(format!("{CONNECTION_STRING} is wrong: {error}")))?;
        Ok(EtcdLockStore::new(options))
    }
}

#[cfg(not(feature = "etcd"))]
mod absent {
    use crate::locks::{LockBackend, LockConfigError};
    use crate::pipeline::CONNECTION_STRING;

    const REMEDY: &str = r#"the lock backend "etcd" is not built into this binary: build it with `cargo install dapper-orchestrator-cli --features etcd`, which needs protoc, or use another backend"#;

    pub(crate) fn backend() -> LockBackend {
        LockBackend::new(&[CONNECTION_STRING], |_| Err(LockConfigError::new("backend", REMEDY)))
    }
}
