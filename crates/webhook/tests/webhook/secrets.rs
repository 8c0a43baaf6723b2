//! No secret of the URL is ever shown.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use dapper_core::{Process, ProcessStatus};
use dapper_webhook::WebhookProcess;
use tokio::net::TcpListener;

use crate::server::{Server, config, event, process, whole_chain};

const CANARY: &str = "canary";

fn assert_clean(text: &str) {
    assert!(!text.to_lowercase().contains(CANARY), "{text}");
}

/// The URL of `address` with the canary wherever a secret can be.
fn url(scheme: &str, address: &str) -> String {
    format!("{scheme}://canary1:canary2@{address}/hook?token=canary3&canary4#canary5")
}

#[tokio::test]
async fn answers_that_quote_the_request_are_redacted() {
    let server = Server::start(|received| {
        (StatusCode::NOT_FOUND, format!("no {} for canary1 and canary2", received.uri)).into_response()
    })
    .await;
    let process = process(&[("url", &url("http", &server.address))]);
    assert_clean(&format!("{process:?}"));
    let status = process.run(&event()).await.unwrap();
    let log =
        format!("POST http://{}/hook answered 404 Not Found: no /hook?*** for *** and ***", server.address);
    assert_eq!(status, ProcessStatus::fail("hook", log));
}

#[tokio::test]
async fn transport_errors_are_clean() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silent = process(&[("url", &url("http", &address)), ("timeout", "100ms")]);
    assert_clean(&whole_chain(&silent.run(&event()).await.unwrap_err()));
    drop(listener);
    for (scheme, address) in [("http", &*address), ("https", &*address), ("http", "no-such-host.invalid")] {
        let process = process(&[("url", &url(scheme, address)), ("timeout", "5s")]);
        assert_clean(&format!("{process:?}"));
        assert_clean(&whole_chain(&process.run(&event()).await.unwrap_err()));
    }
}

#[test]
fn configuration_errors_are_clean() {
    for url in [url("ftp", "h"), url("http", "h:canary6"), url("http", "[canary7]"), url("http", "")] {
        assert_clean(&whole_chain(&WebhookProcess::new(config(&[("url", &url)])).unwrap_err()));
    }
}
