//! The webhook receiver, by a client that speaks just enough HTTP.

use std::time::Duration;

use dapper_testkit::history::Operation;
use dapper_testkit::{Memory, Receiver, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn post(receiver: &Receiver, body: &str) -> u16 {
    let url = receiver.url();
    let address = url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST /hook?x=1 HTTP/1.1\r\nHost: x\r\nX-Token: 7\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

const EVENT: &str = r#"{"location":"orders","operation":"delete","id":"42","trigger":"t","event_id":"e/0","attempt":2,"token":9,"captured_at":"2026-01-01T00:00:00Z"}"#;

#[tokio::test]
async fn a_request_is_recorded_with_its_event() {
    let receiver = Receiver::start().await.unwrap();
    assert_eq!(post(&receiver, EVENT).await, 200);
    let requests = receiver.wait_for(1, Duration::from_secs(5)).await.unwrap();
    assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("POST", "/hook?x=1"));
    assert_eq!((requests[0].header("x-token"), requests[0].text("id")), (Some("7"), Some("42")));
    let delivery = &receiver.deliveries()[0];
    assert_eq!((delivery.table.as_str(), delivery.key.as_str()), ("orders", "42"));
    assert_eq!((delivery.operation, delivery.token, delivery.attempt), (Operation::Delete, Some(9), Some(2)));
    assert_eq!(delivery.event_id.as_deref(), Some("e/0"));
}

#[tokio::test]
async fn replies_are_as_told_and_failures_are_no_deliveries() {
    let receiver = Receiver::remembering(Memory::Requests).await.unwrap();
    receiver.reply_with(|request| Reply::status(if request.text("id") == Some("42") { 503 } else { 204 }));
    assert_eq!(post(&receiver, EVENT).await, 503);
    assert_eq!(post(&receiver, &EVENT.replace("42", "43")).await, 204);
    receiver.reply(Reply::OK.after(Duration::from_millis(50)));
    let start = std::time::Instant::now();
    assert_eq!(post(&receiver, "garbage").await, 200);
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!((receiver.count(), receiver.deliveries().len()), (3, 2));
    let requests = receiver.requests();
    assert_eq!(requests.iter().map(|request| request.sequence).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(requests[2].body.is_null());
}

#[tokio::test]
async fn waiting_for_too_many_ends() {
    let receiver = Receiver::remembering(Memory::Deliveries).await.unwrap();
    let arrival = receiver.next_arrival();
    post(&receiver, EVENT).await;
    arrival.await;
    let error = receiver.wait_for(2, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!((error.received, error.wanted), (1, 2));
    assert_eq!(receiver.deliveries_from(0).len(), 1);
    assert!(receiver.requests().is_empty() && receiver.deliveries_from(1).is_empty());
}
