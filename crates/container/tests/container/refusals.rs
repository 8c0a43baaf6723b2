//! Sockets behind which there is no engine, or a bad one.

use std::time::Duration;

use dapper_container::{ContainerError, ContainerProcess, probe};
use dapper_core::{Process, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::support::{config, event, whole_chain};

/// A socket in a place of its own.
fn socket(name: &str) -> String {
    let folder = std::env::temp_dir().join(format!("dapper-container-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name).to_str().unwrap().to_owned()
}

/// Gives one answer to every request; none at all where it is empty.
fn answering(name: &str, answer: &'static str) -> String {
    let path = socket(name);
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    path
}

async fn error_of(socket: &str, more: &[(&str, &str)]) -> String {
    let context = [&[("image", "a"), ("socket", socket)], more].concat();
    let process = ContainerProcess::new(config("run", &context)).unwrap();
    let run = tokio::time::timeout(Duration::from_secs(30), async { process.run(&event()).await });
    whole_chain(&run.await.expect("it does not wait for ever").unwrap_err())
}

#[tokio::test]
async fn no_engine_is_an_error_that_names_the_socket() {
    let path = socket("nobody");
    let text = error_of(&path, &[]).await;
    assert!(text.contains(&format!("the engine at {path} could not be asked to list containers")), "{text}");
    let error = probe(&config("run", &[("image", "a"), ("socket", &path)])).await.unwrap_err();
    assert!(matches!(error, ContainerError::Engine { .. }), "{error:?}");
}

#[tokio::test]
async fn an_engine_that_is_silent_costs_no_more_than_the_timeout() {
    let path = answering("silent", "");
    let text = error_of(&path, &[("timeout", "300ms")]).await;
    assert!(text.contains("was removed, since it took longer than 300ms"), "{text}");
}

#[tokio::test]
async fn garbage_is_an_error() {
    for (name, answer) in [
        ("garbage", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("no-json", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        ("other-json", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n[{\"Id\": 3}]"),
    ] {
        let path = answering(name, answer);
        let text = error_of(&path, &[]).await;
        assert!(text.contains("could not be asked to list containers"), "{name}: {text}");
    }
}

#[tokio::test]
async fn a_refusal_is_shown_within_bounds_and_without_secrets() {
    let path = answering(
        "refusing",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 51\r\n\r\n{\"message\":\"no room\\nfor canary-1, \\u001b[0msorry\"}",
    );
    let text = error_of(&path, &[("env.KEY", "canary-1")]).await;
    assert!(text.contains("refused to list containers: no room"), "{text}");
    assert!(!text.contains("canary") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn the_registry_makes_it() {
    let mut registry = Registry::new();
    dapper_container::register(&mut registry);
    let process = registry.process(config("run", &[("image", "a")])).unwrap();
    assert_eq!(process.id(), "run");
    let error = registry.process(config("run", &[])).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("process \"run\": \"image\" is missing or empty"), "{error}");
}
