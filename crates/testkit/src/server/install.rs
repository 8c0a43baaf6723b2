//! The last way to a PostgreSQL: the distribution's package.

use std::fs;
use std::io;
use std::path::Path;

use crate::packages;

const CLUSTER_CONFIG: &str = "/etc/postgresql-common/createcluster.conf";

const PACKAGE: [&str; 1] = ["postgresql"];

/// Installs PostgreSQL, after saying so; the error says why it did not.
pub(super) fn install() -> Result<(), String> {
    packages::may_install(&PACKAGE)?;
    let ours = prevent_cluster().map_err(|error| format!("cannot write {CLUSTER_CONFIG}: {error}"))?;
    let installed = packages::install(&PACKAGE);
    if ours {
        restore_cluster_config().map_err(|error| format!("cannot restore {CLUSTER_CONFIG}: {error}"))?;
    }
    installed
}

/// The package would make a cluster and start it: tell it not to, unless the machine's owner has configured this.
fn prevent_cluster() -> io::Result<bool> {
    let path = Path::new(CLUSTER_CONFIG);
    if path.exists() {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, "create_main_cluster = false\n")?;
    Ok(true)
}

/// Puts the package's own file, which `ucf` laid beside ours, in its place.
fn restore_cluster_config() -> io::Result<()> {
    match fs::rename(format!("{CLUSTER_CONFIG}.ucf-dist"), CLUSTER_CONFIG) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(CLUSTER_CONFIG),
        other => other,
    }
}
