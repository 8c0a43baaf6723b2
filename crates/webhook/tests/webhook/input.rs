//! The input, over real connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapper_core::{
    Acknowledgement, CancellationToken, Delivery, Event, EventSink, Input, InputConfig, InputError, Operation,
};
use dapper_webhook::{WebhookInput, validate_input};
use futures::FutureExt;
use jiff::Timestamp;
use ring::hmac::{HMAC_SHA256, Key, sign};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const TOKEN: &str = "canary-0123456789";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Nothing here takes nearly as long, not even on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// An input at work; what it sends comes here.
struct Running {
    address: SocketAddr,
    deliveries: mpsc::Receiver<Delivery>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), InputError>>,
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

fn config(address: SocketAddr, more: &Value) -> InputConfig {
    let mut options = json!({ "listen": address.to_string(), "token": TOKEN });
    for (key, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(options.as_object_mut().unwrap().remove(key)),
            value => options[key] = value.clone(),
        }
    }
    InputConfig {
        name: "orders-hook".into(),
        kind: "webhook".into(),
        connection_string: "/orders".to_owned().into(),
        operations: None,
        options: options.as_object().unwrap().clone(),
    }
}

impl Running {
    async fn start(more: &Value) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let config = config(address, more);
        validate_input(&config).unwrap();
        let input = WebhookInput::new(&config).unwrap();
        assert!(!format!("{input:?}{config:?}").contains("canary"));
        let (deliveries, errors, stop) = (mpsc::channel(8), mpsc::channel(8), CancellationToken::new());
        let (sink, until) = (EventSink::new(deliveries.0, errors.0), stop.clone());
        let task = tokio::spawn(async move { input.handle(sink, until).await });
        let start = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert!(start.elapsed() < LIMIT, "nobody listens at {address}");
            sleep(Duration::from_millis(5)).await;
        }
        Self { address, deliveries: deliveries.1, stop, task }
    }

    /// Sends a request with the token and gives back the answer.
    fn post(&self, body: &str) -> JoinHandle<Answer> {
        let headers = [("authorization", format!("Bearer {TOKEN}"))];
        self.ask("POST", "/orders", &headers, body)
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, String)], body: &str) -> JoinHandle<Answer> {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        ))
    }

    fn send(&self, request: String) -> JoinHandle<Answer> {
        let address = self.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // A request that is refused early need not be read to its end.
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an answer comes");
            let text = String::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head: head.to_lowercase(), body: serde_json::from_str(body).unwrap_or_default() }
        })
    }

    async fn next(&mut self) -> (Event, Acknowledgement) {
        let delivery = timeout(LIMIT, self.deliveries.recv()).await.expect("an event comes").unwrap();
        delivery.into_events().next().unwrap()
    }
}

async fn answer(asked: JoinHandle<Answer>) -> Answer {
    timeout(LIMIT, asked).await.expect("an answer comes").unwrap()
}

async fn becomes_invalid(acknowledgement: &Acknowledgement) {
    let start = Instant::now();
    while acknowledgement.is_valid() {
        assert!(start.elapsed() < LIMIT, "the event may still be given to processes");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_request_is_taken_over_only_when_its_event_is_handled() {
    let mut input = Running::start(&json!({})).await;
    let headers = [
        ("authorization", format!("bearer {TOKEN}")),
        ("idempotency-key", "a/1".to_owned()),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    ];
    let mut asked = input.ask("PUT", "/orders", &headers, r#" {"total":10.50,"id":42} "#);
    let (event, acknowledgement) = input.next().await;
    let expected = concat!(
        r#"{"location":"orders","operation":"update","id":"42","trigger":"orders_hook","#,
        r#""event_id":"orders_hook/a/1","key":{"id":42},"new":{"total":10.50,"id":42},"#,
        r#""traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#
    );
    assert_eq!(event.to_json().replace(' ', ""), expected);
    assert!(acknowledgement.is_valid());
    sleep(Duration::from_millis(100)).await;
    assert!((&mut asked).now_or_never().is_none(), "it is not answered before");
    acknowledgement.handled();
    let answer = answer(asked).await;
    assert_eq!((answer.status, &answer.body["event_id"]), (202, &json!("orders_hook/a/1")));
}

#[tokio::test]
async fn an_event_without_an_id_is_named_and_ordered_by_its_request() {
    let mut input = Running::start(&json!({})).await;
    for body in ["{}", r#"{"id":null}"#, r#"{"id":[1]}"#] {
        let asked = input.post(body);
        let (event, acknowledgement) = input.next().await;
        let name = event.event_id.as_deref().unwrap().strip_prefix("orders_hook/").unwrap();
        assert_eq!((event.id.as_str(), name.len(), event.key.is_none()), (name, 32, true), "{body}");
        acknowledgement.handled();
        assert_eq!(answer(asked).await.status, 202);
    }
    let asked = input.post(r#"{"id":"ä\n"}"#);
    let (event, acknowledgement) = input.next().await;
    assert_eq!((event.id.as_str(), event.key.unwrap().get()), ("ä\n", r#"{"id":"ä\n"}"#));
    acknowledgement.handled();
    assert_eq!(answer(asked).await.status, 202);
}

#[tokio::test]
async fn what_was_not_handled_was_not_taken_over() {
    let mut input = Running::start(&json!({})).await;
    let asked = input.post("{}");
    let (_, acknowledgement) = input.next().await;
    drop(acknowledgement);
    let answer = answer(asked).await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    assert_eq!(answer.body["error"], "the event was not handled; send it again");
}

#[tokio::test]
async fn when_nobody_waits_any_more_no_process_is_called_and_the_place_is_kept_until_the_last_has_ended() {
    let mut input = Running::start(&json!({ "timeout": "300ms", "max_waiting": 1 })).await;
    let asked = input.post("{}");
    let (_, acknowledgement) = input.next().await;
    let late = answer(asked).await;
    assert_eq!(late.status, 503);
    assert_eq!(late.body["error"], "the event was not handled within 300ms; send it again");
    assert!(!acknowledgement.is_valid());

    let busy = answer(input.post("{}")).await;
    assert_eq!(busy.status, 429);
    assert!(busy.head.contains("retry-after: 1"), "{}", busy.head);
    assert_eq!(busy.body["error"], "1 requests are under way already");
    drop(acknowledgement);
    let asked = input.post("{}");
    input.next().await.1.handled();
    assert_eq!(answer(asked).await.status, 202);
}

#[tokio::test]
async fn when_the_client_hangs_up_no_process_is_called() {
    let mut input = Running::start(&json!({})).await;
    let asked = input.post("{}");
    let (_, acknowledgement) = input.next().await;
    assert!(acknowledgement.is_valid());
    asked.abort();
    becomes_invalid(&acknowledgement).await;
}

#[tokio::test]
async fn who_is_not_let_in_and_what_is_not_understood_is_told_why() {
    let mut input = Running::start(&json!({ "max_body_bytes": 100 })).await;
    let good = ("authorization", format!("Bearer {TOKEN}"));
    let long = "x".repeat(101);
    for (method, path, header, body, status, reason) in [
        ("POST", "/other", &good, "{}", 404, "there is nothing at this path"),
        ("GET", "/orders", &good, "", 405, "this method makes no event here"),
        ("POST", "/orders", &("x", "y".into()), "{}", 401, "must hold Bearer and the right token"),
        ("POST", "/orders", &("authorization", format!("Bearer {TOKEN}0")), "{}", 401, "must hold Bearer"),
        ("POST", "/orders", &("authorization", format!("Basic {TOKEN}")), "{}", 401, "must hold Bearer"),
        ("POST", "/orders", &good, "", 400, "the body must be a JSON object"),
        ("POST", "/orders", &good, "[{}]", 400, "the body must be a JSON object"),
        ("POST", "/orders", &good, "{\"id\":\n 1,}", 400, "the body is not valid JSON, line 2 column"),
        ("POST", "/orders", &good, "{} {}", 400, "the body is not valid JSON"),
        ("POST", "/orders", &good, &*long, 413, "the body has more than 100 bytes"),
    ] {
        let refused = answer(input.ask(method, path, std::slice::from_ref(header), body)).await;
        let said = refused.body["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(refused.status, status, "{method} {path} {body}: {said}");
        assert!(said.contains(reason) && !said.contains("canary"), "{said}");
    }
    let twice = [good.clone(), ("idempotency-key", "x".repeat(201))];
    assert_eq!(answer(input.ask("POST", "/orders", &twice, "{}")).await.status, 400);
    // A body that does not say how long it is.
    let chunk = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let head =
        format!("POST /orders HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n");
    let refused = answer(input.send(format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}"))).await;
    assert_eq!(refused.status, 413);
    assert!(input.deliveries.try_recv().is_err(), "none of this is an event");
}

#[tokio::test]
async fn a_signed_request_is_let_in_and_no_other() {
    let mut input = Running::start(&json!({ "token": null, "secret": SECRET })).await;
    let key = Key::new(HMAC_SHA256, &STANDARD.decode(&SECRET["whsec_".len()..]).unwrap());
    let headers = |id: &str, seconds: i64, body: &str| {
        let signature = STANDARD.encode(sign(&key, format!("{id}.{seconds}.{body}").as_bytes()));
        [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", seconds.to_string()),
            ("webhook-signature", format!("v1,AAAA v1,{signature}")),
        ]
    };
    let now = Timestamp::now().as_second();
    let asked = input.ask("POST", "/orders", &headers("msg_1", now, "{}"), "{}");
    let (event, acknowledgement) = input.next().await;
    assert_eq!(event.event_id.as_deref(), Some("orders_hook/msg_1"));
    acknowledgement.handled();
    assert_eq!(answer(asked).await.status, 202);
    for (headers, body, reason) in [
        (headers("msg_1", now, "{}"), "{ }", "no signature fits"),
        (headers("msg_1", now - 600, "{}"), "{}", "webhook-timestamp is more than five minutes away"),
    ] {
        let refused = answer(input.ask("POST", "/orders", &headers, body)).await;
        assert_eq!((refused.status, refused.body["error"].as_str()), (401, Some(reason)));
    }
    assert_eq!(answer(input.post("{}")).await.status, 401);
    assert!(input.deliveries.try_recv().is_err());
}

#[tokio::test]
async fn slow_clients_are_given_up() {
    let input = Running::start(&json!({ "max_waiting": 1 })).await;
    let mut head = TcpStream::connect(input.address).await.unwrap();
    head.write_all(b"POST /orders HTTP/1.1\r\nhost").await.unwrap();
    let start = format!("POST /orders HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {TOKEN}\r\n");
    let slow = answer(input.send(format!("{start}connection: close\r\ncontent-length: 10\r\n\r\n{{"))).await;
    assert_eq!(
        (slow.status, slow.body["error"].as_str()),
        (408, Some("the body did not arrive within 10 s"))
    );
    let end = timeout(LIMIT, head.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok(), "a head without end is given up, too");
}

#[tokio::test]
async fn on_stop_what_is_under_way_is_finished_and_nothing_else_taken() {
    let mut input = Running::start(&json!({})).await;
    let asked = input.post("{}");
    let (_, acknowledgement) = input.next().await;
    input.stop.cancel();
    let start = Instant::now();
    while TcpStream::connect(input.address).await.is_ok() {
        assert!(start.elapsed() < LIMIT, "it still listens");
        sleep(Duration::from_millis(5)).await;
    }
    acknowledgement.handled();
    assert_eq!(answer(asked).await.status, 202);
    timeout(LIMIT, input.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_can_pass() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let input = WebhookInput::new(&config(address, &json!({}))).unwrap();
    let sink = EventSink::new(mpsc::channel(1).0, mpsc::channel(1).0);
    let error = input.handle(sink, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), dapper_core::ErrorKind::Transient);
    let text = crate::server::whole_chain(&error);
    assert!(text.contains(&format!("cannot listen on {address}")) && !text.contains("canary"), "{text}");
}

#[test]
fn operations_choose_the_methods() {
    let mut config = config("127.0.0.1:1".parse().unwrap(), &json!({}));
    config.operations = Some(vec![Operation::Truncate]);
    let error = validate_input(&config).unwrap_err().to_string();
    assert!(error.contains("a webhook has no operation \"truncate\""), "{error}");
}
