//! The file: the identity of the store in the first line, then a line for each resource, for ever.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use dapper_lock::{
    BootClock, Clock, FencingToken, HeldBy, HolderId, LockError, LockErrorKind, Resource, StoreId,
};

use crate::unavailable;

/// What the file says.
#[derive(Clone, PartialEq)]
pub(crate) struct Leases {
    pub(crate) id: StoreId,
    by_resource: BTreeMap<String, Lease>,
}

/// The last grant of a resource.
#[derive(Clone, PartialEq)]
pub(crate) struct Lease {
    pub(crate) token: FencingToken,
    pub(crate) holder: HolderId,
    /// Counted since the machine started, in milliseconds.
    ends_ms: u128,
    /// Which start of the machine that was.
    boot: String,
}

impl Lease {
    pub(crate) fn running(holder: HolderId, token: FencingToken, ttl: Duration) -> Self {
        // One millisecond more: never sooner than promised.
        let ends_ms = (BootClock.now().since_origin() + ttl).as_millis() + 1;
        Self { token, holder, ends_ms, boot: boot() }
    }

    pub(crate) fn over(holder: HolderId, token: FencingToken) -> Self {
        Self { token, holder, ends_ms: 0, boot: boot() }
    }

    /// The term, if it is running. Those of an earlier start are over: their holders ended with the machine.
    pub(crate) fn held_by(&self) -> Option<HeldBy> {
        let left_ms = self.ends_ms.checked_sub(BootClock.now().since_origin().as_millis())?;
        let remaining = Duration::from_millis(u64::try_from(left_ms).ok()?);
        let is_running = self.boot == boot() && !remaining.is_zero();
        is_running.then_some(HeldBy { holder: self.holder, token: self.token, remaining })
    }
}

impl Leases {
    pub(crate) fn of(&self, resource: &Resource) -> Option<&Lease> {
        self.by_resource.get(resource.as_str())
    }

    pub(crate) fn put(&mut self, resource: &Resource, lease: Lease) {
        self.by_resource.insert(resource.as_str().to_owned(), lease);
    }

    /// Reads the file. One that is not there is a new store; one that makes no sense is an error, never an empty store.
    pub(crate) fn read(path: &Path) -> Result<Self, LockError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { id: StoreId::random(), by_resource: BTreeMap::new() });
            }
            Err(error) => return Err(unavailable(error)),
        };
        let garbage =
            || LockError::with_source("file", LockErrorKind::Inconsistent, "the file of leases is damaged");
        let mut lines = text.lines();
        let id = lines.next().and_then(|line| line.parse().ok()).ok_or_else(garbage)?;
        let by_resource: Option<_> = lines.map(read_line).collect();
        Ok(Self { id, by_resource: by_resource.ok_or_else(garbage)? })
    }

    /// Puts a new file in the place of the old one: whoever crashes midway leaves the old one.
    pub(crate) fn write(&self, path: &Path) -> Result<(), LockError> {
        let mut text = format!("{}\n", self.id);
        for (resource, Lease { token, holder, ends_ms, boot }) in &self.by_resource {
            text += &format!("{token} {holder} {ends_ms} {boot} {resource}\n");
        }
        let new = path.with_extension("new");
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            // The new name is on the disk when the directory is.
            path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        written().map_err(unavailable)
    }
}

/// Names have no line breaks, and stand last because they may have spaces.
fn read_line(line: &str) -> Option<(String, Lease)> {
    let mut parts = line.splitn(5, ' ');
    let token = FencingToken::new(parts.next()?.parse().ok()?)?;
    let holder = parts.next()?.parse().ok()?;
    let ends_ms = parts.next()?.parse().ok()?;
    let boot = parts.next()?.to_owned();
    Some((parts.next()?.to_owned(), Lease { token, holder, ends_ms, boot }))
}

/// Which start of the machine this is; elsewhere than on Linux all are taken for one.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| "-".to_owned(), |id| id.trim().to_owned())
}
