//! The demo's program, when it cannot be played.

use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demo")).args(arguments).output().unwrap()
}

#[test]
fn too_few_replicas_are_refused_before_anything_starts() {
    let output = demo(&["--dapper", "/bin/false", "--replicas", "2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("at least 3 are needed"));
}

#[test]
fn a_program_that_ends_at_once_is_shown_with_its_exit() {
    let output = demo(&["--dapper", "/bin/false"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("no leader") && errors.contains("exit status: 1"), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("type = \"webhook\"") && text.contains("${DATABASE_URL}"), "{text}");
}

#[test]
fn a_program_that_does_not_exist_is_an_error_that_names_it() {
    let output = demo(&["--dapper", "/nonexistent/dapper", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot run /nonexistent/dapper"));
    assert!(output.stdout.is_empty());
}
