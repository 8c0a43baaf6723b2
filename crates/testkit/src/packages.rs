//! The last way to a program: the distribution's package, on Debian and Ubuntu, as root.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Asked by every package that would start a service; the machine's owner may have one.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Whether packages may be installed here; the error says why not.
pub(crate) fn may_install(packages: &[&str]) -> Result<(), String> {
    let names = packages.join(" ");
    if std::env::var_os("DAPPER_TEST_NO_INSTALL").is_some_and(|value| value != "0" && !value.is_empty()) {
        return Err(format!("installing {names} is switched off by DAPPER_TEST_NO_INSTALL"));
    }
    if !fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        return Err(format!("installing {names} needs root"));
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("installing {names} is done on Debian and Ubuntu only"));
    }
    Ok(())
}

/// Installs packages, after saying so, and lets none start a service; the error says why it did not.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    may_install(packages)?;
    // Not by `eprintln!`, which the test harness keeps back.
    let _ = writeln!(
        io::stderr(),
        "missing here, and installed by apt-get (DAPPER_TEST_NO_INSTALL=1 stops this): {}",
        packages.join(" ")
    );
    let ours = forbid_services().map_err(|error| format!("cannot write {POLICY}: {error}"))?;
    let install = ["install", "--yes", "--no-install-recommends"];
    let installed = apt_get(&["update"]).and_then(|()| apt_get(&[&install[..], packages].concat()));
    if ours {
        fs::remove_file(POLICY).map_err(|error| format!("cannot remove {POLICY}: {error}"))?;
    }
    installed
}

/// Packages of servers start them: not for us, unless the machine's owner has a policy.
fn forbid_services() -> io::Result<bool> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
    match file {
        Ok(mut file) => file.write_all(b"#!/bin/sh\nexit 101\n").map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
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
