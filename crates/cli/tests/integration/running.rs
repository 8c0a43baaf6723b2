//! The binary at work on a database.

use std::time::Duration;

use crate::support::{CANARY, LIMIT, Running, SMALL, database};
use dapper_testkit::Receiver;
use nix::sys::signal::Signal;
use tokio::net::TcpListener;
use tokio::time::timeout;

#[tokio::test]
async fn rows_become_lines_and_a_signal_ends_it_well() {
    let (database, client) = database().await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut dapper = Running::start(SMALL, &database);
        dapper.logged("tables under capture").await;
        client.batch_execute("INSERT INTO orders VALUES (42); DELETE FROM orders").await.unwrap();
        let (created, deleted) = (dapper.printed().await, dapper.printed().await);
        let start =
            r#"{"location":"orders","operation":"create","id":"42","trigger":"orders_input","event_id":""#;
        assert!(created.starts_with(start), "{created}");
        assert!(deleted.contains(r#""operation":"delete","id":"42""#), "{deleted}");
        dapper.signal(signal);
        dapper.logged("stopped").await;
        assert_eq!(dapper.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let context = format!(
        "type = \"webhook\"\n[processes.execution_context]\nurl = \"http://{}\"",
        silent.local_addr().unwrap()
    );
    let pipeline = SMALL.replace("type = \"log\"", &context);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let (database, client) = database().await;
        let mut dapper = Running::start(&pipeline, &database);
        dapper.logged("tables under capture").await;
        client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
        let _never_answered = timeout(LIMIT, silent.accept()).await.unwrap().unwrap();
        dapper.signal(Signal::SIGTERM);
        dapper.logged("stopping: finishing").await;
        dapper.signal(signal);
        assert_eq!(dapper.exit_code().await, Some(code));
    }
}

#[tokio::test]
async fn no_secret_is_logged_at_work_even_when_everything_is_logged() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    let context = format!(
        "type = \"webhook\"\n[processes.execution_context]\nurl = \"{}?token={CANARY}\"",
        receiver.url()
    );
    let pipeline = SMALL.replace("type = \"log\"", &context);
    let mut dapper =
        Running::start_with(&pipeline, &database, &["--log-level", "trace", "--log-format", "json"], &[]);
    let mut logs = Vec::new();
    let mut stopping = false;
    let all = async {
        while let Some(line) = dapper.err.next_line().await.unwrap() {
            if line.contains("tables under capture") {
                client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
            }
            if !stopping && receiver.count() > 0 {
                stopping = true;
                dapper.signal(Signal::SIGTERM);
            }
            logs.push(line);
        }
    };
    timeout(LIMIT, all).await.unwrap();
    assert!(stopping && logs.iter().any(|line| line.contains("\"level\":\"TRACE\"")), "{logs:#?}");
    for line in logs {
        assert!(!line.contains(CANARY), "{line}");
    }
}

#[tokio::test]
async fn garbage_on_the_channel_is_counted_and_hides_nothing() {
    let (database, client) = database().await;
    let mut dapper = Running::start(SMALL, &database);
    dapper.logged("tables under capture").await;
    let garbage = [r#"{"tbl":"orders","op":"#, "not json", r#"{"tbl":"orders","op":"FLY","ids":[1]}"#];
    for text in garbage {
        client.execute("SELECT pg_notify('orders_input', $1)", &[&text]).await.unwrap();
    }
    let mut counted = 0;
    loop {
        let line = dapper.logged("notification(s) with text on channel \"orders_input\", ignored").await;
        let count = line.split(" notification(s)").next().unwrap().rsplit([' ', '"']).next().unwrap();
        counted += count.parse::<usize>().unwrap();
        if counted >= garbage.len() {
            break;
        }
        // Reports are at least a second apart, and made when the reader wakes up.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        client.batch_execute("NOTIFY orders_input").await.unwrap();
    }
    assert_eq!(counted, garbage.len());
    client.batch_execute("INSERT INTO orders VALUES (42)").await.unwrap();
    assert!(dapper.printed().await.contains(r#""operation":"create","id":"42""#));
    dapper.signal(Signal::SIGTERM);
    assert_eq!(dapper.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_nothing_and_loses_nothing() {
    let (database, client) = database().await;
    let mut first = Running::start(SMALL, &database);
    first.logged("tables under capture").await;
    first.close_output();
    client.batch_execute("INSERT INTO orders VALUES (42)").await.unwrap();
    first.logged("Broken pipe").await;
    first.signal(Signal::SIGTERM);
    assert_eq!(first.exit_code().await, Some(0));
    let mut second = Running::start(SMALL, &database);
    let printed = second.printed().await;
    assert!(printed.contains(r#""id":"42""#) && !printed.contains(r#""attempt":1,"#), "{printed}");
}
