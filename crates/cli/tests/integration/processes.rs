//! Types of processes, filters and the webhook input as a pipeline file has them, run by the binary.

use std::net::TcpListener;
use std::time::Duration;

use dapper_testkit::Receiver;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CANARY, LIMIT, Running, database};

/// The vector's secret of the Standard Webhooks specification.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn rows_go_where_their_fields_say() {
    let (database, client) = database().await;
    client.batch_execute("ALTER TABLE orders ADD status text").await.unwrap();
    let (paid, gone) = (Receiver::start().await.unwrap(), Receiver::start().await.unwrap());
    let pipeline = format!(
        r#"
[[inputs]]
name = "orders-input"
type = "postgres"
connection_string = "${{DATABASE_URL}}"
images = "old-and-new"

[[processes]]
name = "paid"
type = "webhook"
[processes.execution_context]
url = "{}"
secret = "${{HOOK_SECRET}}"
header.x-key = "${{HOOK_KEY}}"

[[processes]]
name = "gone"
type = "webhook"
[processes.execution_context]
url = "{}"
batch = "10"

[[links]]
input = "orders-input"
process = "paid"
operations = ["create", "update"]
where = {{ field = "new.status", equals = "paid" }}

[[links]]
input = "orders-input"
process = "gone"
tables = ["orders"]
[[links.where]]
field = "new.id"
exists = false
[[links.where]]
field = "old.status"
in = ["paid", "open"]
"#,
        paid.url(),
        gone.url()
    );
    let variables = [("HOOK_SECRET", SECRET), ("HOOK_KEY", CANARY)];
    let mut running = Running::start_with(&pipeline, &database, &[], &variables);
    running.logged("tables under capture").await;
    client
        .batch_execute(
            "INSERT INTO orders VALUES (1, 'paid'), (2, 'open'), (3, 'odd'), (4, NULL);
             UPDATE orders SET status = 'paid' WHERE id = 2;
             DELETE FROM orders WHERE id IN (1, 3, 4)",
        )
        .await
        .unwrap();
    let came = gone.wait_for(1, LIMIT).await.unwrap();
    assert_eq!(
        (came[0].body[0]["id"].as_str(), came[0].body[0]["operation"].as_str()),
        (Some("1"), Some("delete"))
    );
    let came = paid.wait_for(2, LIMIT).await.unwrap();
    let mut ids: Vec<&str> = came.iter().filter_map(|it| it.text("id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["1", "2"]);
    for received in &came {
        assert_eq!(received.header("webhook-id"), received.text("event_id"));
        assert!(received.header("webhook-signature").is_some_and(|text| text.starts_with("v1,")));
        assert_eq!(received.header("x-key"), Some(CANARY));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((paid.count(), gone.count()), (2, 1), "nothing else gets through");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code().await, Some(0));
}

/// Sends a request and gives back the whole answer.
async fn post(address: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: Bearer {CANARY}-0123456789\r\n"
    );
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_request_runs_a_program_and_one_that_no_link_takes_is_handled() {
    let (database, _) = database().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let pipeline = format!(
        r#"
[lock]
backend = "memory"

[[inputs]]
name = "orders-hook"
type = "webhook"
connection_string = "/orders"
listen = "{address}"
token = "${{HOOK_TOKEN}}"

[[processes]]
name = "write"
type = "command"
[processes.execution_context]
command = "cat >> {}"
shell = "true"

[[links]]
input = "orders-hook"
process = "write"
where = {{ field = "new.status", equals = "paid" }}
"#,
        seen.display()
    );
    let token = format!("{CANARY}-0123456789");
    let mut running = Running::start_with(&pipeline, &database, &[], &[("HOOK_TOKEN", &token)]);
    running.logged("taking requests").await;
    for status in ["paid", "open"] {
        let answer = post(&address, &format!("{{\"id\":7,\"status\":\"{status}\"}}")).await;
        assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("orders_hook/"), "{answer}");
    }
    let seen = std::fs::read_to_string(&seen).unwrap();
    assert!(seen.lines().count() == 1 && seen.contains(r#""id":"7""#) && seen.contains("paid"), "{seen}");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code().await, Some(0));
}
