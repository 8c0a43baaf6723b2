//! A program that runs, and its end, whichever way that comes.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use dapper_program::Lines;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// How long output is still read when the program has ended, and something that left its group holds it open.
const AFTER_END: Duration = Duration::from_millis(500);

/// A program and all that it has started in its process group.
///
/// When this is dropped, all of it is killed.
pub(crate) struct Running {
    // Before the child: while that is not waited for, no other process gets its number.
    group: Group,
    child: Child,
}

/// Kills a process group when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // There is none any more when all of it has ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            // Also has the runtime fetch the exit status of one that nobody waits for any more.
            .kill_on_drop(true);
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { group: Group(pid), child })
    }

    /// Feeds the program, reads what it prints, and waits for its end. What it leaves behind in its group is killed then.
    pub(crate) async fn run(
        mut self,
        input: &[u8],
        mut out: Lines<'_>,
        mut err: Lines<'_>,
    ) -> io::Result<ExitStatus> {
        let (stdin, stdout, stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        // All at once: a program may print before it reads, and print to one stream while the other is full.
        let streams = async {
            tokio::join!(feed(stdin, input), drain(stdout, &mut out), drain(stderr, &mut err));
        };
        let mut streams = std::pin::pin!(streams);
        let mut is_read = false;
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                () = &mut streams, if !is_read => is_read = true,
            }
        };
        drop(self.group);
        if !is_read {
            // Without the group the streams end, unless something has left it.
            let _ = timeout(AFTER_END, streams).await;
        }
        status
    }
}

/// A program that ends, or closes its input, without having read all is none that failed.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input).await;
    }
}

async fn drain(stream: Option<impl AsyncRead + Unpin>, lines: &mut Lines<'_>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        lines.push(&buffer[..read]);
    }
}
