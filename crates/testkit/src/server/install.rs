//! The last way to a server: the distribution's package, on Debian and Ubuntu, as root.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

const CLUSTER_CONFIG: &str = "/etc/postgresql-common/createcluster.conf";

/// Installs PostgreSQL, after saying so; the error says why it did not.
pub(super) fn install() -> Result<(), String> {
    if std::env::var_os("DAPPER_TEST_NO_INSTALL").is_some_and(|value| value != "0" && !value.is_empty()) {
        return Err("installing it is switched off by DAPPER_TEST_NO_INSTALL".to_owned());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("installing it needs root".to_owned());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err("installing it is done on Debian and Ubuntu only".to_owned());
    }
    crate::say(
        "no PostgreSQL here: installing the package `postgresql` by apt-get (DAPPER_TEST_NO_INSTALL=1 stops this)",
    );
    let ours = prevent_cluster().map_err(|error| format!("cannot write {CLUSTER_CONFIG}: {error}"))?;
    let installed = apt_get(&["update"])
        .and_then(|()| apt_get(&["install", "--yes", "--no-install-recommends", "postgresql"]));
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

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confold"]);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    // What it says belongs on stderr, because our stdout may be read by a program.
    command.stdout(io::stderr());
    let status = command.status().map_err(|error| format!("cannot run apt-get: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("apt-get {} failed: {status}", arguments[0])) }
}
