//! Working directories that are recognised, and removed, when their owner is dead.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;

use nix::errno::Errno;
use nix::sys::signal;
use nix::unistd::Pid;

use crate::guardian::{EndingSignal, Guardian};

const PREFIX: &str = "dapper-test-";

/// A private directory directly under the system's temporary folder, with a [`Guardian`] of its own.
#[derive(Debug)]
pub(crate) struct Scratch {
    // Held until the guardian is done: a locked directory is one in use.
    guardian: Guardian,
    _lock: File,
}

impl Scratch {
    /// Makes one, after removing what dead processes left behind (once per process).
    pub(crate) fn create(ending: EndingSignal) -> io::Result<Self> {
        static SWEEP: Once = Once::new();
        let parent = parent_folder();
        SWEEP.call_once(|| sweep(&parent));
        // Short, because the path of a Unix socket has room for about a hundred bytes.
        let unique = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let path = parent.join(format!("{PREFIX}{}-{unique}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Self { guardian: Guardian::watch(&path, ending)?, _lock: lock })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.guardian.directory()
    }

    /// Who looks after the processes that work in it.
    pub(crate) fn guardian(&self) -> &Guardian {
        &self.guardian
    }
}

/// The temporary folder, or `/tmp` where another user could not enter that.
fn parent_folder() -> PathBuf {
    let folder = std::env::temp_dir();
    let folder = folder.canonicalize().unwrap_or(folder);
    let open = |path: &Path| fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    if nix::unistd::geteuid().is_root() && !folder.ancestors().all(open) {
        return PathBuf::from("/tmp");
    }
    folder
}

/// Removes the directories whose owner is dead; ends what still runs in them.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if is_stale(&path) {
            let _ = Guardian::clean_up(&path);
        }
    }
}

/// An owner that is just making the directory has not locked it yet, so its process id is asked first; the id of a
/// dead owner may have been given to another process, in which case the directory waits for a later sweep.
fn is_stale(path: &Path) -> bool {
    let Some(owner) = owner(path) else { return false };
    if signal::kill(owner, None) != Err(Errno::ESRCH) {
        return false;
    }
    let mine = |data: fs::Metadata| {
        let user = nix::unistd::geteuid();
        data.is_dir() && (user.is_root() || data.uid() == user.as_raw())
    };
    fs::symlink_metadata(path).is_ok_and(mine) && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn owner(path: &Path) -> Option<Pid> {
    let rest = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    rest.split_once('-')?.0.parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_in_the_name() {
        assert_eq!(owner(Path::new("/tmp/dapper-test-17-0a0b0c0d")), Some(Pid::from_raw(17)));
        for other in ["/tmp/dapper-test-", "/tmp/dapper-test-x-y", "/tmp/other-17-0a", "/"] {
            assert_eq!(owner(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_directory_goes_with_its_owner_and_not_before() {
        let scratch = Scratch::create(EndingSignal::Kill).unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        assert!(!is_stale(&path));
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_owners_directory_is_swept() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let parent = Scratch::create(EndingSignal::Kill).unwrap();
        let dead = parent.path().join(format!("{PREFIX}{}-0a0b0c0d", child.id()));
        let living = parent.path().join(format!("{PREFIX}{}-0a0b0c0d", std::process::id()));
        for path in [&dead, &living] {
            fs::create_dir(path).unwrap();
        }
        sweep(parent.path());
        assert!(!dead.exists() && living.exists());
    }
}
