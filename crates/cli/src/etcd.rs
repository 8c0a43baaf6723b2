//! The lock backend "etcd": there with the feature `etcd`, a clear error without it.

#[cfg(feature = "etcd")]
pub(crate) use present::{probe, remains, store, validate};

#[cfg(not(feature = "etcd"))]
pub(crate) use absent::{probe, remains, store, validate};

#[cfg(feature = "etcd")]
mod present {
    use std::sync::Arc;

    use anyhow::Context;
    use dapper_lock::LockStore;
    use dapper_lock_etcd::{EtcdLockOptions, EtcdLockStore};
    use secrecy::SecretString;

    use crate::pipeline::CONNECTION_STRING;

    /// Checks the `[lock]` section without reaching out; else says what is wrong, and with which of its keys.
    pub(crate) fn validate(address: Option<&SecretString>) -> Result<(), (&'static str, String)> {
        options(address).map(drop).map_err(|reason| (CONNECTION_STRING, reason))
    }

    /// The store that the `[lock]` section names. Connects to nothing.
    pub(crate) fn store(address: Option<&SecretString>) -> anyhow::Result<Arc<dyn LockStore>> {
        Ok(Arc::new(made(address)?))
    }

    /// Finds out whether the store can be used; says what is there. Changes nothing.
    pub(crate) async fn probe(address: Option<&SecretString>) -> anyhow::Result<String> {
        let probed = made(address)?.probe().await.context("cannot use etcd")?;
        Ok(format!("etcd {} at {}", probed.version, probed.endpoint))
    }

    /// What stays in etcd when nobody holds a lease.
    pub(crate) fn remains() -> String {
        let key = format!("{}store", EtcdLockOptions::default().prefix);
        format!(
            "lock: the key {key} stays in etcd, since other pipelines may share it; \
             when none does, etcdctl del {key} removes it"
        )
    }

    fn made(address: Option<&SecretString>) -> anyhow::Result<EtcdLockStore> {
        Ok(EtcdLockStore::new(options(address).map_err(anyhow::Error::msg)?))
    }

    fn options(address: Option<&SecretString>) -> Result<EtcdLockOptions, String> {
        let address = address.ok_or(
            r#"the lock backend "etcd" needs a "connection_string", such as http://one:2379,http://two:2379"#,
        )?;
        EtcdLockOptions::from_connection_string(address)
            .map_err(|error| format!("{CONNECTION_STRING} is wrong: {error}"))
    }
}

#[cfg(not(feature = "etcd"))]
mod absent {
    use std::sync::Arc;

    use anyhow::bail;
    use dapper_lock::LockStore;
    use secrecy::SecretString;

    const REMEDY: &str = r#"the lock backend "etcd" is not built into this binary: build it with `cargo install dapper-orchestrator-cli --features etcd`, which needs protoc, or use another backend"#;

    /// Says what is wrong with the `[lock]` section, and with which of its keys.
    pub(crate) fn validate(_address: Option<&SecretString>) -> Result<(), (&'static str, String)> {
        Err(("backend", REMEDY.to_owned()))
    }

    /// Fails.
    pub(crate) fn store(_address: Option<&SecretString>) -> anyhow::Result<Arc<dyn LockStore>> {
        bail!(REMEDY)
    }

    /// Fails.
    pub(crate) async fn probe(_address: Option<&SecretString>) -> anyhow::Result<String> {
        bail!(REMEDY)
    }

    /// What is wrong.
    pub(crate) fn remains() -> String {
        REMEDY.to_owned()
    }
}
