//! How a program ends, and what that means.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use dapper_command::{CommandError, probe};
use dapper_core::{Process, ProcessError, ProcessStatus, Registry};

use crate::support::{Logged, config, event, folder, process, script, whole_chain};

#[tokio::test]
async fn only_exit_code_0_is_handled() {
    let folder = folder();
    let status = script(&folder, "exit 0", &[]).run(&event()).await.unwrap();
    assert_eq!(status, ProcessStatus::success("run"));
    for (text, said) in [
        ("exit 3", "/bin/sh exited with code 3"),
        ("echo one >&2; echo two; echo three >&2; exit 1", "/bin/sh exited with code 1: one | three"),
        ("kill -9 $$", "/bin/sh was ended by signal 9"),
        ("no-such-program-here 2>/dev/null", "/bin/sh exited with code 127"),
    ] {
        let status = script(&folder, text, &[]).run(&event()).await.unwrap();
        assert_eq!(status, ProcessStatus::fail("run", said), "{text}");
    }
}

#[tokio::test]
async fn what_is_printed_is_logged() {
    let (logged, _guard) = Logged::start();
    let folder = folder();
    let text = "echo to-out; echo to-err >&2; printf 'no end'";
    script(&folder, text, &[]).run(&event()).await.unwrap();
    let logs = logged.text();
    for wanted in
        [r#"to-out process="run" stream="stdout""#, r#"to-err process="run" stream="stderr""#, "no end"]
    {
        assert!(logs.contains(wanted), "{logs}");
    }
}

#[tokio::test]
async fn a_flood_of_output_neither_stops_the_program_nor_fills_the_log() {
    let (logged, _guard) = Logged::start();
    let folder = folder();
    let mut event = event();
    event.id = "x".repeat(1 << 20);
    // It prints far more than a pipe holds before it reads any of its input, which is more than a pipe holds, too.
    let text = "yes out | head -c 5000000; yes err | head -c 5000000 >&2; cat | wc -c > size";
    let status = script(&folder, text, &[]).run(&event).await.unwrap();
    assert_eq!(status, ProcessStatus::success("run"));
    let size: usize = crate::support::read(&folder, "size").trim().parse().unwrap();
    assert_eq!(size, event.to_json().len() + 1);
    assert!(logged.text().lines().count() < 1_000, "{} lines", logged.text().lines().count());
}

#[tokio::test]
async fn a_program_that_does_not_read_has_not_failed() {
    let folder = folder();
    let mut event = event();
    event.id = "x".repeat(1 << 20);
    for text in ["exit 0", "exec <&-; sleep 0.05; exit 0", "head -c 10 > /dev/null"] {
        let status = script(&folder, text, &[]).run(&event).await.unwrap();
        assert_eq!(status, ProcessStatus::success("run"), "{text}");
    }
}

#[tokio::test]
async fn what_left_its_group_does_not_hold_up_the_end() {
    let folder = folder();
    let start = Instant::now();
    // It has the program's output open for as long as it lives.
    let status = script(&folder, "setsid sleep 15 & exit 0", &[]).run(&event()).await.unwrap();
    assert_eq!(status, ProcessStatus::success("run"));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let error = process(&[("command", "no-such-program canary")]).run(&event()).await.unwrap_err();
    let ProcessError::Failed { source, .. } = &error else { panic!("{error}") };
    let cause: &CommandError = source.downcast_ref().unwrap();
    assert!(
        matches!(cause, CommandError::Start { program, .. } if program == "no-such-program"),
        "{cause:?}"
    );
    let text = whole_chain(&error);
    assert!(text.contains("no-such-program cannot be started") && !text.contains("canary"), "{text}");
}

#[test]
fn a_program_is_looked_for_where_it_would_be_found() {
    let folder = folder();
    let place = folder.path().join("tool");
    fs::write(&place, "").unwrap();
    let path = folder.path().to_str().unwrap();
    let at = |command: &str| probe(&config(&[("command", command), ("env.PATH", path)]));
    assert!(at("tool x").is_err(), "nobody may run it");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(at("tool x").unwrap(), place);
    let by_directory = probe(&config(&[("command", "./tool"), ("directory", path)])).unwrap();
    assert_eq!(by_directory, folder.path().join("./tool"));
    assert!(probe(&config(&[("command", "sh")])).unwrap().ends_with("sh"));
    assert!(
        whole_chain(&at("other").unwrap_err()).contains("other cannot be started: there is no such program")
    );
}

#[tokio::test]
async fn the_registry_makes_it() {
    let mut registry = Registry::new();
    dapper_command::register(&mut registry);
    let process = registry.process(config(&[("command", "true")])).unwrap();
    assert_eq!(process.id(), "run");
    assert_eq!(process.run(&event()).await.unwrap(), ProcessStatus::success("run"));
    let error = registry.process(config(&[])).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("process \"run\": \"command\" is missing or empty"), "{error}");
}
