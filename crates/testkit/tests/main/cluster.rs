//! Replicas as processes, with a shell script in the place of the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dapper_testkit::{Cluster, ClusterOptions};

/// Says that it acquired the lease with its own process id as token, or what the variable asks for.
const PROGRAM: &str = r#"#!/bin/sh
[ "$1" = run ] && [ -r "$2" ] && [ "$3 $4" = "--log-format json" ] || exit 9
trap 'echo "{\"level\":\"INFO\",\"fields\":{\"message\":\"stopped\"}}" >&2; exit 0' TERM
[ -n "$STUBBORN" ] && trap '' TERM
[ -n "$BROKEN" ] && { echo "it is broken" >&2; exit 3; }
echo "{\"level\":\"INFO\",\"fields\":{\"message\":\"lease acquired\",\"token\":$$}}" >&2
while :; do sleep 0.05; done
"#;

const LIMIT: Duration = Duration::from_secs(10);

/// The script and a folder of its own, which goes with this value.
struct Script(PathBuf);

impl Script {
    fn write(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dapper-script-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("program");
        fs::write(&program, PROGRAM).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    fn cluster(&self, environment: &[(&str, &str)]) -> Cluster {
        let environment =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let program = self.0.join("program");
        Cluster::new(ClusterOptions {
            program,
            pipeline: "# none".to_owned(),
            environment,
            ..Default::default()
        })
        .unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Starts one replica; for a process that is to die.
pub(crate) fn start_for_ever(folder: &Path) -> Cluster {
    fs::create_dir_all(folder).unwrap();
    let script = Script(folder.to_owned());
    fs::write(folder.join("program"), PROGRAM).unwrap();
    fs::set_permissions(folder.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut cluster = script.cluster(&[("STUBBORN", "1")]);
    cluster.start_replica().unwrap();
    std::mem::forget(script);
    cluster
}

#[tokio::test]
async fn the_next_leader_has_a_higher_token_and_the_dead_one_does_not_count() {
    let script = Script::write("leader");
    let mut cluster = script.cluster(&[]);
    cluster.start_replica().unwrap();
    let first = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    assert_eq!((first.replica, first.token), (0, u64::from(cluster.replicas()[0].pid())));
    cluster.replicas()[0].kill_9().unwrap();
    let status = cluster.replicas()[0].wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), None);
    assert_eq!(cluster.leader(), None);
    assert!(cluster.replicas()[0].kill_9().unwrap_err().to_string().contains("has ended"));
    cluster.start_replica().unwrap();
    let second = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    assert_eq!(second.replica, 1);
}

#[tokio::test]
async fn a_replica_stops_when_asked_and_its_log_is_read_to_the_end() {
    let script = Script::write("stop");
    let mut cluster = script.cluster(&[]);
    cluster.start_replica().unwrap();
    cluster.wait_for_leader(0, LIMIT).await.unwrap();
    let replica = &cluster.replicas()[0];
    replica.terminate().unwrap();
    assert_eq!(replica.wait(LIMIT).await.unwrap().code(), Some(0));
    let line = replica.wait_for_line(LIMIT, |line| line.message() == "stopped").await.unwrap();
    assert_eq!(line.level(), Some("INFO"));
}

#[tokio::test]
async fn a_frozen_replica_does_nothing_until_thawed() {
    let script = Script::write("freeze");
    let mut cluster = script.cluster(&[]);
    cluster.start_replica().unwrap();
    cluster.wait_for_leader(0, LIMIT).await.unwrap();
    let replica = &cluster.replicas()[0];
    replica.freeze().unwrap();
    replica.terminate().unwrap();
    let error = replica.wait(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains("lease acquired"), "{error}");
    replica.thaw().unwrap();
    assert_eq!(replica.wait(LIMIT).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_replica_that_fails_is_said_so_with_its_words() {
    let script = Script::write("broken");
    let mut cluster = script.cluster(&[("BROKEN", "1")]);
    cluster.start_replica().unwrap();
    let replica = &cluster.replicas()[0];
    assert_eq!(replica.wait(LIMIT).await.unwrap().code(), Some(3));
    replica.wait_for_line(LIMIT, |line| line.message() == "it is broken").await.unwrap();
    let error = cluster.wait_for_leader(0, LIMIT).await.unwrap_err();
    assert!(
        error.to_string().contains("exit status: 3") && error.to_string().contains("it is broken"),
        "{error}"
    );
}

#[tokio::test]
async fn a_dropped_cluster_leaves_nothing() {
    let script = Script::write("drop");
    let mut cluster = script.cluster(&[("STUBBORN", "1")]);
    cluster.start_replica().unwrap();
    let folder = cluster.pipeline().parent().unwrap().to_owned();
    cluster.wait_for_leader(0, LIMIT).await.unwrap();
    drop(cluster);
    assert!(!folder.exists());
    assert_eq!(crate::survivors::processes_naming(&folder), Vec::<u32>::new());
}
