//! Endpoints that refuse, are slow, or are not there.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use dapper_core::{Process, ProcessError, ProcessStatus};
use dapper_webhook::{WebhookError, WebhookProcess};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Server, config, event, process};

fn cause(error: &ProcessError) -> &WebhookError {
    match error {
        ProcessError::Failed { process, source } => {
            assert_eq!(process, "hook");
            source.downcast_ref().expect("the cause is the webhook's own error")
        }
        ProcessError::Config { .. } | _ => panic!("{error}"),
    }
}

/// A server that takes one connection and leaves it to `serve`, behind the request's head.
async fn raw_server<F, Fut>(serve: F) -> String
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(event().to_json().as_bytes()) {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0, "the request is cut off");
        }
        serve(stream).await;
    });
    url
}

#[tokio::test]
async fn a_refusal_fails_with_status_and_answer() {
    let server =
        Server::start(|_| (StatusCode::INTERNAL_SERVER_ERROR, "no\r\ndatabase\u{1b}[0m").into_response())
            .await;
    let url = format!("http://{}/hook", server.address);
    let status = process(&[("url", &url)]).run(&event()).await.unwrap();
    let log = format!("POST {url} answered 500 Internal Server Error: no  database [0m");
    assert_eq!(status, ProcessStatus::fail("hook", log));
}

#[tokio::test]
async fn a_pause_that_the_endpoint_asks_for_is_passed_on() {
    let server =
        Server::start(|_| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "120")], "busy").into_response())
            .await;
    let url = format!("http://{}/hook", server.address);
    let error = process(&[("url", &url)]).run(&event()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(120)));
    let said = crate::server::whole_chain(&error);
    assert!(said.contains(&format!("POST {url} answered 429 Too Many Requests: busy")), "{said}");
}

#[tokio::test]
async fn a_refusal_without_words() {
    let server = Server::start(|_| StatusCode::CONFLICT.into_response()).await;
    let url = format!("http://{}/", server.address);
    let status = process(&[("url", &url), ("method", "PUT")]).run(&event()).await.unwrap();
    assert_eq!(status.logs, [format!("PUT {url} answered 409 Conflict")]);
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let url = raw_server(|mut stream| async move {
        let head = b"HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let chunk = format!("10000\r\n{}\r\n", "ä".repeat(0x8000));
        // Ends when the client hangs up.
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let process = process(&[("url", &url), ("timeout", "1h")]);
    let event = event();
    let run = tokio::time::timeout(Duration::from_secs(20), process.run(&event));
    let status = run.await.expect("the process does not read for ever").unwrap();
    let log = format!("POST {url} answered 503 Service Unavailable: {}", "ä".repeat(200));
    assert_eq!(status, ProcessStatus::fail("hook", log));
}

#[tokio::test]
async fn an_answer_that_stalls_is_used_as_far_as_it_came() {
    let url = raw_server(|mut stream| async move {
        let head = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 100\r\n\r\nsorry";
        stream.write_all(head).await.unwrap();
        // Until the client hangs up.
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let status = process(&[("url", &url), ("timeout", "300ms")]).run(&event()).await.unwrap();
    assert_eq!(status.logs, [format!("POST {url} answered 502 Bad Gateway: sorry")]);
}

#[tokio::test]
async fn success_does_not_wait_for_the_body() {
    let url = raw_server(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 100\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let process = process(&[("url", &url), ("timeout", "1h")]);
    let event = event();
    let run = tokio::time::timeout(Duration::from_secs(20), process.run(&event));
    assert_eq!(run.await.expect("the body is not waited for").unwrap(), ProcessStatus::success("hook"));
}

#[tokio::test]
async fn silence_ends_in_a_timeout() {
    let url = raw_server(|mut stream| async move {
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let error = process(&[("url", &url), ("timeout", "200ms")]).run(&event()).await.unwrap_err();
    let cause = cause(&error);
    assert!(
        matches!(cause, WebhookError::Timeout { timeout, .. } if timeout.as_millis() == 200),
        "{cause:?}"
    );
    assert_eq!(cause.to_string(), format!("POST {url} did not answer within 200ms"));
}

#[tokio::test]
async fn a_refused_connection_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    drop(listener);
    let error = process(&[("url", &url)]).run(&event()).await.unwrap_err();
    let cause = cause(&error);
    assert!(matches!(cause, WebhookError::Unreachable { .. }), "{cause:?}");
    assert_eq!(cause.to_string(), format!("POST {url} could not be reached"));
    assert!(crate::server::whole_chain(&error).contains("Connection refused"));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_an_error() {
    let url = raw_server(|stream| async move { drop(stream) }).await;
    let error = process(&[("url", &url)]).run(&event()).await.unwrap_err();
    assert!(matches!(cause(&error), WebhookError::Unreachable { .. }));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut server = Server::start(|_| Redirect::temporary("/elsewhere").into_response()).await;
    let url = format!("http://{}/hook", server.address);
    let status = process(&[("url", &url)]).run(&event()).await.unwrap();
    assert_eq!(status, ProcessStatus::fail("hook", format!("POST {url} answered 307 Temporary Redirect")));
    assert_eq!(server.received.recv().await.unwrap().uri, "/hook");
    assert!(server.received.try_recv().is_err());
}

#[test]
fn a_missing_url_is_an_error_of_its_own() {
    for context in [&[][..], &[("url", "")]] {
        assert!(matches!(WebhookProcess::new(config(context)), Err(WebhookError::MissingUrl)));
    }
}
