//! Private etcd servers: configured, stopped, crashed, frozen.

use std::time::Duration;

use dapper_testkit::{EtcdOptions, EtcdServer, ServerError};

fn start(arguments: &[&str]) -> EtcdServer {
    let arguments = arguments.iter().map(ToString::to_string).collect();
    EtcdServer::start(&EtcdOptions { arguments, tls: None }).unwrap()
}

#[test]
fn it_runs_until_it_is_stopped_or_killed_and_again_after_that() {
    let server = start(&[]);
    let (url, pid) = (server.url(), server.pid().unwrap());
    assert!(server.requests().unwrap() >= 0.0);
    for stop in [EtcdServer::stop, EtcdServer::kill_9] {
        stop(&server).unwrap();
        assert_eq!(server.pid(), None);
        assert!(server.requests().is_err());
        server.restart().unwrap();
        assert_ne!(server.pid(), Some(pid));
        assert_eq!(server.url(), url);
        assert!(server.directory().join("data/member/wal").is_dir());
    }
}

#[test]
fn it_says_nothing_while_it_is_frozen() {
    let server = start(&[]);
    server.freeze().unwrap();
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.requests());
        std::thread::sleep(Duration::from_millis(300));
        let was_silent = !asked.is_finished();
        server.thaw().unwrap();
        (was_silent, asked.join().unwrap())
    });
    assert!(asked.0 && asked.1.is_ok());
    // A frozen one ends just as well.
    server.freeze().unwrap();
    drop(server);
}

#[test]
fn an_argument_that_etcd_refuses_is_an_error_with_its_words() {
    let arguments = vec!["--no-such-flag".to_owned()];
    let error = EtcdServer::start(&EtcdOptions { arguments, tls: None }).unwrap_err();
    assert!(
        matches!(&error, ServerError::Program { output, .. } if output.contains("no-such-flag")),
        "{error}"
    );
}

#[test]
fn a_dropped_etcd_leaves_nothing() {
    let server = start(&[]);
    let directory = server.directory().to_owned();
    drop(server);
    assert!(!directory.exists());
    assert_eq!(crate::survivors::processes_naming(&directory), Vec::<u32>::new());
}
