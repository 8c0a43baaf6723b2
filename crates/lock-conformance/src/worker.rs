//! Other processes that contend for the same store.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dapper_lock::{HolderId, LockStore};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::case::{Stop, Verdict, ensure};
use crate::client::{Client, LONG, resource};
use crate::harness::Harness;

/// Set for a worker: the store's address.
const ADDRESS: &str = "DAPPER_LOCK_CONFORMANCE_ADDRESS";
/// Set for a worker: the file with the counter.
const COUNTER: &str = "DAPPER_LOCK_CONFORMANCE_COUNTER";

const WORKERS: usize = 3;
const ROUNDS: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);
/// What all contend for.
const RESOURCE: &str = "counter";

/// How this program is started once more as a worker: a process that calls [`serve`](Self::serve).
#[derive(Clone, Debug, Default)]
pub struct Worker {
    arguments: Option<Vec<OsString>>,
}

impl Worker {
    /// There is no way: what needs other processes is not covered.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// This very program with `arguments`; started so, it must call [`serve`](Self::serve) and then end.
    #[must_use]
    pub fn this_program(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { arguments: Some(arguments.into_iter().map(Into::into).collect()) }
    }

    /// Does a worker's work if this process is one; false if it is not. Blocks; needs no runtime.
    ///
    /// # Panics
    /// When the work can't be done.
    #[must_use]
    pub fn serve<H: Harness>() -> bool {
        let (Ok(address), Some(counter)) = (env::var(ADDRESS), env::var_os(COUNTER)) else { return false };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let counted = runtime.block_on(async {
            let store = H::attach(&address).await?;
            count(store, Path::new(&counter)).await
        });
        if let Err(stop) = counted {
            panic!("the worker failed: {stop:?}");
        }
        true
    }

    /// Lets several processes count, and looks at what they counted.
    pub(crate) async fn contend(&self, address: &str) -> Verdict {
        let missing = Stop::NotCovered { missing: "Worker::this_program" };
        let arguments = self.arguments.as_ref().ok_or(missing)?;
        let name = format!("dapper-lock-conformance-{}", uuid::Uuid::new_v4());
        let counter = RemovedInTheEnd(env::temp_dir().join(name));
        write(&counter.0, 0)?;
        let program = env::current_exe().map_err(|error| Stop::Failed(error.to_string()))?;
        let start = || {
            let mut command = Command::new(&program);
            command.args(arguments).env(ADDRESS, address).env(COUNTER, &counter.0);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            command.spawn().map_err(|error| Stop::Failed(format!("cannot start a worker: {error}")))
        };
        let workers = (0..WORKERS).map(|_| start()).collect::<Verdict<Vec<Child>>>()?;
        for worker in workers {
            let output = timeout(LIMIT, worker.wait_with_output()).await;
            let output =
                output.map_err(|_| Stop::Failed(format!("a worker did not end within {LIMIT:?}")))?;
            let output = output.map_err(|error| Stop::Failed(error.to_string()))?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "a worker ended with {}:\n{said}", output.status);
        }
        let (counted, expected) = (read(&counter.0)?, WORKERS * ROUNDS);
        ensure!(
            counted == expected,
            "{WORKERS} processes counted {expected} times under the lock to {counted}"
        );
        Ok(())
    }
}

/// Counts in the file, which nothing protects but the lock.
async fn count(store: Arc<dyn LockStore>, counter: &Path) -> Verdict {
    let (client, holder) = (Client { store }, HolderId::random());
    let resource = resource(RESOURCE)?;
    for _ in 0..ROUNDS {
        let term = client
            .granted_after_wait(&resource, holder, LONG, LIMIT, "each holds it for a moment only")
            .await?;
        let seen = read(counter)?;
        sleep(Duration::from_millis(1)).await;
        write(counter, seen + 1)?;
        client.release(&term).await?;
    }
    Ok(())
}

fn read(counter: &Path) -> Verdict<usize> {
    let text = fs::read_to_string(counter).map_err(|error| Stop::Failed(format!("the counter: {error}")))?;
    text.parse().map_err(|_| Stop::Failed(format!("the counter says {text:?}: two wrote it at once")))
}

fn write(counter: &Path, number: usize) -> Verdict {
    fs::write(counter, number.to_string()).map_err(|error| Stop::Failed(format!("the counter: {error}")))
}

struct RemovedInTheEnd(PathBuf);

impl Drop for RemovedInTheEnd {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
