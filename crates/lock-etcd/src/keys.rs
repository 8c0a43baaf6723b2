//! The keys of a store, and what is under them.

use dapper_lock::{FencingToken, HolderId, Resource, StoreId, Term};
use etcd_client::{Compare, CompareOp, GetResponse, KeyValue};

use crate::error::EtcdLockError;

/// What the keys of one store are called.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// A term, as it is in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) holder: HolderId,
    /// The revision at which the key was made.
    pub(crate) token: FencingToken,
    /// The etcd lease with which it ends.
    pub(crate) lease: i64,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Where a resource's term is.
    pub(crate) fn lease(&self, resource: &Resource) -> String {
        format!("{}{resource}", self.leases())
    }

    /// What the keys of all terms start with.
    pub(crate) fn leases(&self) -> String {
        format!("{}leases/", self.prefix)
    }

    /// Where the store's identity is.
    pub(crate) fn store(&self) -> String {
        format!("{}store", self.prefix)
    }
}

impl Entry {
    /// The term that was found, if one was.
    pub(crate) fn find(found: &GetResponse) -> Result<Option<Self>, EtcdLockError> {
        found.kvs().first().map(Self::read).transpose()
    }

    /// This very term, if it is what was found.
    pub(crate) fn find_of(found: &GetResponse, term: &Term) -> Option<Self> {
        let entry = found.kvs().first().and_then(|pair| Self::read(pair).ok())?;
        (entry.holder == term.holder && entry.token == term.token).then_some(entry)
    }

    pub(crate) fn read(pair: &KeyValue) -> Result<Self, EtcdLockError> {
        let holder = text(pair)?.parse().map_err(|_| garbage(pair, "something else than a holder"))?;
        let token = token(pair.create_revision()).ok_or_else(|| garbage(pair, "no revision"))?;
        match pair.lease() {
            0 => Err(garbage(pair, "a holder without a lease")),
            lease => Ok(Self { holder, token, lease }),
        }
    }
}

/// What is true while a key is that of this very term.
pub(crate) fn is_term(key: &str, term: &Term) -> [Compare; 2] {
    // A token that is no revision is nobody's: no key was made at -1.
    let revision = i64::try_from(term.token.get()).unwrap_or(-1);
    [
        Compare::create_revision(key, CompareOp::Equal, revision),
        Compare::value(key, CompareOp::Equal, term.holder.to_string()),
    ]
}

/// What is true while there is no such key.
pub(crate) fn is_free(key: &str) -> [Compare; 1] {
    [Compare::create_revision(key, CompareOp::Equal, 0)]
}

pub(crate) fn token(revision: i64) -> Option<FencingToken> {
    u64::try_from(revision).ok().and_then(FencingToken::new)
}

pub(crate) fn read_store_id(pair: &KeyValue) -> Result<StoreId, EtcdLockError> {
    text(pair)?.parse().map_err(|_| garbage(pair, "something else than the identity of a store"))
}

fn text(pair: &KeyValue) -> Result<&str, EtcdLockError> {
    pair.value_str().map_err(|_| garbage(pair, "something that is not UTF-8"))
}

fn garbage(pair: &KeyValue, problem: &str) -> EtcdLockError {
    let key = String::from_utf8_lossy(pair.key()).into_owned();
    EtcdLockError::Garbage { key, problem: problem.to_owned() }
}
