//! The measuring program, when it cannot measure.

use std::process::{Command, Output};

fn failover(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_failover")).args(arguments).output().unwrap()
}

#[test]
fn a_program_that_ends_at_once_is_no_verdict_and_is_shown() {
    let output =
        failover(&["--dapper", "/bin/false", "--backend", "postgres", "--cases", "kill", "--runs", "1"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("error: kill: ") && errors.contains("exit status: 1"), "{errors}");
}

#[test]
fn what_is_left_out_is_said_by_name_and_measuring_nothing_is_not_good() {
    let output = failover(&["--dapper", "/bin/false", "--backend", "etcd", "--cases", "terminated"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("left out: terminated with etcd: a lease in etcd lives in no session"),
        "{errors}"
    );
}
