//! Signatures, headers of the file, and limits, against real servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapper_core::{Process, ProcessStatus};
use futures::future::join_all;
use jiff::Timestamp;
use ring::hmac::{HMAC_SHA256, Key, sign};

use crate::server::{Received, Server, event, process, whole_chain};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What the specification has a receiver compute.
fn expected(secret: &str, received: &Received) -> String {
    let text = |name| received.headers[name].to_str().unwrap();
    let signed = format!("{}.{}.{}", text("webhook-id"), text("webhook-timestamp"), received.body);
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    format!("v1,{}", STANDARD.encode(sign(&Key::new(HMAC_SHA256, &key), signed.as_bytes())))
}

#[tokio::test]
async fn a_call_is_signed_with_every_secret_and_named_the_same_in_every_attempt() {
    let mut server = Server::start(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let url = format!("http://{}/hook", server.address);
    let process = process(&[("url", &url), ("secret", &format!("{NEW} {OLD}"))]);
    let mut event = event();
    event.event_id = Some("6f0c/0".into());
    for attempt in 1..=2 {
        event.attempt = Some(attempt);
        process.run(&event).await.unwrap();
        let received = server.received.recv().await.unwrap();
        assert_eq!(received.headers["webhook-id"], "6f0c/0");
        let seconds: i64 = received.headers["webhook-timestamp"].to_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().as_second().abs_diff(seconds) <= 5);
        let signatures = format!("{} {}", expected(NEW, &received), expected(OLD, &received));
        assert_eq!(received.headers["webhook-signature"], *signatures);
    }
}

#[tokio::test]
async fn an_event_without_an_id_is_not_signed_and_not_sent() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let process = process(&[("url", &format!("http://{}", server.address)), ("secret", OLD)]);
    let error = whole_chain(&process.run(&event()).await.unwrap_err());
    assert!(error.contains("the event has no event_id"), "{error}");
    assert!(server.received.try_recv().is_err());
}

#[tokio::test]
async fn headers_of_the_file_are_sent_and_shown_nowhere() {
    let mut server = Server::start(|received| {
        let key = received.headers["x-api-key"].to_str().unwrap().to_owned();
        let authorization = received.headers["authorization"].to_str().unwrap().to_owned();
        (StatusCode::FORBIDDEN, format!("not with {key} and {authorization} or canary-2")).into_response()
    })
    .await;
    let url = format!("http://{}/hook", server.address);
    let process = process(&[
        ("url", &url),
        ("header.X-Api-Key", "canary-1"),
        ("header.authorization", "Bearer canary-2"),
        ("secret", OLD),
    ]);
    let mut event = event();
    event.event_id = Some("6f0c/0".into());
    let status = process.run(&event).await.unwrap();
    let log = format!("POST {url} answered 403 Forbidden: not with *** and *** or ***");
    assert_eq!(status, ProcessStatus::fail("hook", log));
    let received = server.received.recv().await.unwrap();
    assert_eq!(
        (&received.headers["x-api-key"], &received.headers["authorization"]),
        (&"canary-1".parse().unwrap(), &"Bearer canary-2".parse().unwrap())
    );
    let shown = format!("{process:?}");
    assert!(!shown.contains("canary") && !shown.contains(&OLD[6..]), "{shown}");
}

#[tokio::test]
async fn calls_keep_to_concurrency_and_rate() {
    let server = Server::slow(Duration::from_millis(50)).await;
    let url = format!("http://{}/hook", server.address);
    let (limited, free) = (process(&[("url", &url), ("concurrency", "2")]), process(&[("url", &url)]));
    let (limited, free) = (Arc::new(limited), Arc::new(free));
    let event = event();
    for (process, most) in [(&limited, 2), (&free, 6)] {
        let runs = join_all((0..6).map(|_| process.run(&event))).await;
        assert!(runs.into_iter().all(|run| run.is_ok()));
        assert_eq!(server.most_at_once(), most);
    }

    let process = process(&[("url", &url), ("rate", "20/s"), ("burst", "2")]);
    let start = Instant::now();
    join_all((0..6).map(|_| process.run(&event))).await;
    // Two at once, and four more 50 ms apart.
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
}
