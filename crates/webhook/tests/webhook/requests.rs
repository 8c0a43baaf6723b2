//! What is sent, and what counts as handled.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use dapper_core::{Process, ProcessStatus, RawJson, Registry};

use crate::server::{Received, Server, config, event, process};

fn headers(received: &Received) -> Vec<(&str, &str)> {
    received.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

#[tokio::test]
async fn a_bare_event_has_the_bare_headers() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let url = format!("http://{}/hook?a=1", server.address);
    let status = process(&[("url", &url)]).run(&event()).await.unwrap();
    assert_eq!(status, ProcessStatus::success("hook"));

    let received = server.received.recv().await.unwrap();
    assert_eq!((received.method.as_str(), received.uri.to_string().as_str()), ("POST", "/hook?a=1"));
    assert_eq!(
        received.body,
        r#"{"location":"orders","operation":"delete","id":"42","trigger":"orders_input"}"#
    );
    let length = received.body.len().to_string();
    let mut headers = headers(&received);
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("accept", "*/*"),
            ("content-length", &*length),
            ("content-type", "application/json"),
            ("host", &*server.address),
            ("user-agent", concat!("dapper/", env!("CARGO_PKG_VERSION"))),
        ]
    );
}

#[tokio::test]
async fn a_full_event_has_all_headers() {
    let mut server = Server::start(|_| StatusCode::NO_CONTENT.into_response()).await;
    let mut event = event();
    event.event_id = Some("0190/3".into());
    event.attempt = Some(2);
    event.token = Some(u64::MAX);
    event.key = Some(RawJson::parse(r#"{"id":42}"#.into()).unwrap());
    event.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    let process = process(&[("url", &format!("http://{}", server.address))]);
    assert_eq!(process.run(&event).await.unwrap(), ProcessStatus::success("hook"));

    let received = server.received.recv().await.unwrap();
    assert_eq!(received.body, event.to_json());
    for (name, value) in [
        ("idempotency-key", "0190/3"),
        ("dapper-attempt", "2"),
        ("dapper-token", "18446744073709551615"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ] {
        assert_eq!(received.headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn what_no_header_can_carry() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let process = process(&[("url", &format!("http://{}", server.address))]);
    let mut odd = event();
    odd.traceparent = Some("a\r\nx-evil: 1".into());
    odd.event_id = Some("ä".into());
    process.run(&odd).await.unwrap();
    let received = server.received.recv().await.unwrap();
    assert!(!received.headers.contains_key("traceparent") && !received.headers.contains_key("x-evil"));
    assert_eq!(received.headers["idempotency-key"].as_bytes(), "ä".as_bytes());

    odd.event_id = Some("a\nb".into());
    let error = crate::server::whole_chain(&process.run(&odd).await.unwrap_err());
    assert!(error.contains("\"idempotency-key\" holds control characters"), "{error}");
    assert!(server.received.try_recv().is_err());
}

#[tokio::test]
async fn the_method_is_the_configured_one() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let url = format!("http://{}", server.address);
    for method in ["PUT", "patch", "DELETE", "GET"] {
        process(&[("url", &url), ("method", method)]).run(&event()).await.unwrap();
        let received = server.received.recv().await.unwrap();
        assert_eq!(received.method.as_str(), method.to_uppercase());
        assert_eq!(received.body, event().to_json());
    }
}

#[tokio::test]
async fn user_info_is_basic_authentication() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let url = format!("http://user:p%40ss@{}/hook", server.address);
    process(&[("url", &url)]).run(&event()).await.unwrap();
    let received = server.received.recv().await.unwrap();
    assert_eq!(received.headers["authorization"], "Basic dXNlcjpwQHNz");
    assert_eq!(
        (received.uri.to_string(), &received.headers["host"]),
        ("/hook".into(), &server.address.parse().unwrap())
    );
}

#[tokio::test]
async fn the_registry_makes_it() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let mut registry = Registry::new();
    dapper_webhook::register(&mut registry);
    let process = registry.process(config(&[("url", &format!("http://{}", server.address))])).unwrap();
    assert_eq!(process.id(), "hook");
    process.run(&event()).await.unwrap();
    assert!(server.received.recv().await.is_some());

    let error = registry.process(config(&[])).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("process \"hook\": \"url\" is missing or empty"), "{error}");
}
