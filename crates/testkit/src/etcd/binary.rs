//! Finds the program etcd.

use std::env;
use std::path::PathBuf;

/// The first file of that name: on `PATH`, or where packages put it.
pub(crate) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/home/linuxbrew/.linuxbrew/bin"];
    let folders = env::split_paths(&path).chain(usual.map(PathBuf::from));
    folders.map(|folder| folder.join("etcd")).find(|program| program.is_file())
}
