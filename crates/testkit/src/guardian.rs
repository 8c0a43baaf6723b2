//! Sees to it that nothing which this process starts survives it.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A small shell process that waits for the end of this process, however it ends (`kill -9` included), then ends the
/// processes in its care and removes the directory.
///
/// Dropping it does the same at once and waits until it is done.
#[derive(Debug)]
pub(crate) struct Guardian {
    directory: PathBuf,
    shell: Child,
    // The only write end: the standard library opens it close-on-exec, so no other child of ours holds it open.
    pipe: Mutex<Option<ChildStdin>>,
}

/// How the guardian ends the processes in its care before it resorts to `SIGKILL`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EndingSignal {
    /// PostgreSQL's immediate shutdown.
    Quit,
    /// For processes of which nothing is expected any more.
    Kill,
}

const SCRIPT: &str = include_str!("guardian.sh");

impl Guardian {
    /// Starts a guardian of `directory`.
    pub(crate) fn watch(directory: &Path, ending: EndingSignal) -> io::Result<Self> {
        let mut shell = command(directory, ending).stdin(Stdio::piped()).spawn()?;
        let pipe = Mutex::new(shell.stdin.take());
        Ok(Self { directory: directory.to_owned(), shell, pipe })
    }

    /// Does at once, for a directory that a dead process left behind, what its guardian would have done.
    pub(crate) fn clean_up(directory: &Path) -> io::Result<()> {
        command(directory, EndingSignal::Quit).stdin(Stdio::null()).status().map(drop)
    }

    /// Takes a child process into care. Its command line must name the directory.
    pub(crate) fn adopt(&self, pid: u32) -> io::Result<()> {
        self.tell('+', pid)
    }

    /// Lets go of a process that this one has reaped.
    pub(crate) fn release(&self, pid: u32) -> io::Result<()> {
        self.tell('-', pid)
    }

    /// The guarded directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn tell(&self, sign: char, pid: u32) -> io::Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        match pipe.as_mut() {
            Some(pipe) => writeln!(pipe, "{sign} {pid}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.shell.wait();
    }
}

fn command(directory: &Path, ending: EndingSignal) -> Command {
    let signal = match ending {
        EndingSignal::Quit => "QUIT",
        EndingSignal::Kill => "KILL",
    };
    let mut command = Command::new("/bin/sh");
    // A process group of its own: Ctrl-C in the terminal must not reach it. No inherited output: whoever reads ours
    // through a pipe must not wait for the guardian.
    command.args(["-c", SCRIPT, "dapper-guardian"]).arg(directory).arg(signal);
    command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
