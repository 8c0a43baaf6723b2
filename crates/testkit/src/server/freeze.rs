//! A server that stands still: its processes exist and do nothing, as on a machine that hangs.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Server;

/// Thaws the server when dropped: a frozen one could not even be stopped.
#[derive(Debug)]
pub struct Frozen<'s> {
    server: &'s Server,
}

impl Server {
    /// Stops all processes of the server where they are, until what is returned is dropped.
    ///
    /// # Errors
    /// When its processes are not on this machine.
    pub fn freeze(&self) -> io::Result<Frozen<'_>> {
        let frozen = Frozen { server: self };
        self.signal(Signal::SIGSTOP)?;
        Ok(frozen)
    }

    /// The postmaster, which starts no further ones when it is stopped first, and then its children.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().ok_or_else(|| io::Error::other("the server's processes are not here"))?;
        send(i32::try_from(pid).map_err(io::Error::other)?, signal)?;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(child) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // After the name, which may hold anything, come the state and the parent.
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            if parent == Some(pid) {
                send(child, signal)?;
            }
        }
        Ok(())
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = self.server.signal(Signal::SIGCONT);
    }
}

/// One that has ended meanwhile is no error.
fn send(pid: i32, signal: Signal) -> io::Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Err(Errno::ESRCH) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
