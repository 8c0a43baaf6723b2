//! Programs that are killed, with all that they have started.

use std::time::Duration;

use dapper_command::CommandError;
use dapper_core::{Process, ProcessError, ProcessStatus};

use crate::support::{all_end, event, folder, lives, pids, script, whole_chain};

/// Starts a child and a grandchild, writes down all process ids, and waits for ever, deaf to signals that can be ignored.
const FAMILY: &str = "trap '' TERM INT HUP; echo $$ >> pids; \
                      sh -c 'trap \"\" TERM; echo $$ >> pids; sleep 1000 & echo $! >> pids; wait' & wait";

#[tokio::test]
async fn when_the_time_is_up_all_of_it_is_killed() {
    let folder = folder();
    let text = format!("echo before >&2; {FAMILY}");
    let process = script(&folder, &text, &[("timeout", "2s")]);
    let error = process.run(&event()).await.unwrap_err();
    let family = pids(&folder.path().join("pids"), 3).await;
    all_end(&family).await;
    let ProcessError::Failed { source, .. } = &error else { panic!("{error}") };
    let cause: &CommandError = source.downcast_ref().unwrap();
    assert!(matches!(cause, CommandError::Timeout { timeout, .. } if timeout.as_secs() == 2), "{cause:?}");
    let text = whole_chain(&error);
    assert!(text.contains("/bin/sh was killed, since it took longer than 2s: before"), "{text}");
}

#[tokio::test]
async fn when_the_call_is_dropped_all_of_it_is_killed() {
    let folder = folder();
    let process = script(&folder, FAMILY, &[]);
    let event = event();
    let mut run = process.run(&event);
    let file = folder.path().join("pids");
    let family = tokio::select! {
        ended = &mut run => panic!("{ended:?}"),
        family = pids(&file, 3) => family,
    };
    assert!(family.iter().all(|&pid| lives(pid)));
    drop(run);
    all_end(&family).await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed() {
    let folder = folder();
    let process = script(&folder, "sleep 1000 & echo $! > pids; exit 0", &[]);
    let run = tokio::time::timeout(Duration::from_secs(20), async { process.run(&event()).await });
    let status = run.await.expect("it does not wait for what holds the output open").unwrap();
    assert_eq!(status, ProcessStatus::success("run"));
    all_end(&pids(&folder.path().join("pids"), 1).await).await;
}

#[test]
fn when_the_runtime_ends_all_of_it_is_killed() {
    let folder = folder();
    let file = folder.path().join("pids");
    let process = script(&folder, FAMILY, &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move { process.run(&event()).await });
    let family = runtime.block_on(pids(&file, 3));
    runtime.shutdown_timeout(Duration::from_secs(5));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(all_end(&family));
}
