//! `--http`: what a replica says of itself, while all is well and under real faults.

use std::time::{Duration, Instant};

use dapper_testkit::{Database, Faults, Proxy, Receiver, Reply, Server, ServerOptions};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CANARY, LIMIT, Running, database};

/// Within so long a fault must show.
const SHOWS_WITHIN: Duration = Duration::from_secs(5);
const TOKEN: &str = "c4n4ry-token-of-the-tests";

const PIPELINE: &str = r#"
[[inputs]]
name = "orders-input"
type = "postgres"
connection_string = "${DATABASE_URL}"

[[processes]]
name = "notify"
type = "webhook"
[processes.execution_context]
url = "${RECEIVER_URL}"
[processes.retry]
min_backoff = "100ms"
max_attempts = 100

[[links]]
input = "orders-input"
process = "notify"
"#;

/// A replica with `--http`, and where it serves.
struct Replica {
    running: Running,
    address: String,
}

impl Replica {
    async fn start(pipeline: &str, database_url: &str, receiver: &Receiver) -> Self {
        let variables =
            [("DATABASE_URL", database_url), ("RECEIVER_URL", &receiver.url()), ("DAPPER_HTTP_TOKEN", TOKEN)];
        // The address is logged, so that a free port can be asked for.
        let mut running = Running::start_at(pipeline, &["--http", "0"], &variables);
        let line = running.logged("serving http://").await;
        let address = line.split("http://").nth(1).unwrap().trim_end_matches('/').to_owned();
        Self { running, address }
    }

    async fn ask(&self, request: &str) -> (u16, String) {
        ask(&self.address, request).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.text(path).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {body}")))
    }

    async fn text(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address)).await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{headers}\r\n{body}",
            self.address,
            body.len()
        ))
        .await
    }

    /// Waits until `/ready` answers so; the reason, and how long it took.
    async fn becomes(&self, status: u16, text: &str) -> (String, Duration) {
        let started = Instant::now();
        loop {
            let (found, body) = self.get("/ready").await;
            let reason = body["reason"].as_str().unwrap_or("").to_owned();
            if found == status && reason.contains(text) {
                return (reason, started.elapsed());
            }
            assert!(started.elapsed() < LIMIT, "{found} {body}, not {status} {text:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The same, for a fault that was made just now. The page and `/status` say the same.
    async fn shows(&self, text: &str) {
        let (reason, took) = self.becomes(503, text).await;
        assert!(took <= SHOWS_WITHIN, "only after {took:?}: {reason}");
        let (_, status) = self.get("/status").await;
        assert!(
            status["inputs"][0]["reason"].as_str().is_some_and(|reason| reason.contains(text)),
            "{status}"
        );
    }
}

async fn ask(address: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(!answer.contains(CANARY), "a secret is shown: {answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    assert!(!chunked, "bodies have a length");
    (status, body.to_owned())
}

async fn covered(client: &tokio_postgres::Client) {
    let sql = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dapper%'";
    let started = Instant::now();
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < 3 {
        assert!(started.elapsed() < LIMIT, "never covered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_and_standby_are_ready_until_they_stop() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    let leader = Replica::start(PIPELINE, &database.url(), &receiver).await;
    leader.becomes(200, "").await;
    covered(&client).await;
    let standby = Replica::start(PIPELINE, &database.url(), &receiver).await;
    standby.becomes(200, "").await;
    let (_, body) = standby.get("/ready").await;
    assert_eq!(body["inputs"][0]["role"], "standing_by", "{body}");
    assert_eq!(leader.get("/live").await.0, 200);

    client.batch_execute("INSERT INTO orders SELECT generate_series(1, 50)").await.unwrap();
    receiver.wait_for(50, LIMIT).await.unwrap();
    let started = Instant::now();
    let expected = "dapper_events_handled_total{input=\"orders_input\",process=\"notify\"} 50";
    while !leader.text("/metrics").await.1.contains(expected) {
        assert!(started.elapsed() < LIMIT, "{}", leader.text("/metrics").await.1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    leader.running.signal(Signal::SIGTERM);
    standby.becomes(200, "").await;
    let started = Instant::now();
    while standby.get("/ready").await.1["inputs"][0]["role"] != "leading" {
        assert!(started.elapsed() < LIMIT, "nobody took over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let history = loop {
        let (_, history) = standby.get("/history").await;
        if history["events"].to_string().contains("leads, token 2") {
            break history;
        }
        assert!(started.elapsed() < LIMIT, "{history}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!history["samples"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_shows_within_five_seconds_and_so_does_its_return() {
    let server = Server::start(&ServerOptions::default()).unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let receiver = Receiver::start().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY)").await.unwrap();
    let leader = Replica::start(PIPELINE, &database.url(), &receiver).await;
    leader.becomes(200, "").await;
    let standby = Replica::start(PIPELINE, &database.url(), &receiver).await;
    standby.becomes(200, "").await;
    let frozen = server.freeze().unwrap();
    tokio::join!(leader.shows("its database has not answered for"), standby.shows("has not answered for"));
    assert_eq!(leader.get("/live").await.0, 200, "the process runs all the same");
    drop(frozen);
    leader.becomes(200, "").await;
    standby.becomes(200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_cut_off_shows_within_five_seconds_and_the_leader_stays_ready() {
    let (database, _client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    let leader = Replica::start(PIPELINE, &database.url(), &receiver).await;
    leader.becomes(200, "").await;
    let proxy = Proxy::start(database.server().address()).await.unwrap();
    let standby = Replica::start(PIPELINE, &database.url_via(proxy.address()), &receiver).await;
    standby.becomes(200, "").await;
    proxy.set(Faults::SILENT);
    standby.shows("").await;
    assert_eq!(leader.get("/ready").await.0, 200);
    proxy.heal();
    proxy.reset();
    standby.becomes(200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_blocks_the_cursor_shows_within_five_seconds() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    // The receiver never answers to this key; the others go on, and the cursor can't pass it.
    receiver.reply_with(|request| {
        let delay = if request.text("id") == Some("13") { LIMIT } else { Duration::ZERO };
        Reply::OK.after(delay)
    });
    let leader = Replica::start(PIPELINE, &database.url(), &receiver).await;
    leader.becomes(200, "").await;
    covered(&client).await;
    client.batch_execute("INSERT INTO orders VALUES (13)").await.unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        client
            .batch_execute(&format!("INSERT INTO orders VALUES ({})", 100 + started.elapsed().as_millis()))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    leader.shows("its cursor is stalled").await;
    receiver.reply(Reply::OK);
    // The call under way ends by its own time limit, and the next try goes through.
    leader.becomes(200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_fails_on_everything_shows_within_five_seconds_and_its_letters_can_be_acted_on() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    receiver.reply(Reply::status(500));
    let pipeline = PIPELINE.replace("max_attempts = 100", "max_attempts = 5\nmax_backoff = \"1s\"");
    let leader = Replica::start(&pipeline, &database.url(), &receiver).await;
    leader.becomes(200, "").await;
    covered(&client).await;
    client.batch_execute("INSERT INTO orders SELECT generate_series(1, 3)").await.unwrap();
    leader.shows("process \"notify\" handles nothing").await;
    let (_, letters) = leader.get("/letters").await;
    assert!(letters["inputs"][0]["parked"].as_array().is_some(), "{letters}");
    let started = Instant::now();
    let number = loop {
        let (_, letters) = leader.get("/letters").await;
        let dead = letters["inputs"][0]["dead_letters"].as_array().unwrap().clone();
        if dead.len() == 3 {
            assert!(dead[0]["error"].as_str().unwrap().contains("500"), "{letters}");
            break dead[0]["number"].as_i64().unwrap();
        }
        assert!(started.elapsed() < LIMIT, "{letters}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Nothing waits for the process any more.
    leader.becomes(200, "").await;

    let target = format!("{{\"input\":\"orders_input\",\"number\":{number}}}");
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(leader.post("/dead-letters/retry", "", &target).await.0, 401);
    let cross = format!("{bearer}origin: http://evil.example\r\n");
    assert_eq!(leader.post("/dead-letters/retry", &cross, &target).await.0, 403);
    assert_eq!(leader.post("/dead-letters/retry", &bearer, "{}").await.0, 400);
    assert_eq!(leader.post("/dead-letters/retry", &bearer, &target.replace("orders", "no")).await.0, 404);
    receiver.reply(Reply::OK);
    let before = receiver.count();
    assert_eq!(leader.post("/dead-letters/retry", &bearer, &target).await, (200, "{\"done\":1}\n".into()));
    receiver.wait_for(before + 1, LIMIT).await.unwrap();
    assert_eq!(leader.post("/dead-letters/retry", &bearer, &target).await.0, 404, "it is gone");
    let (_, letters) = leader.get("/letters").await;
    let last = letters["inputs"][0]["dead_letters"][0]["number"].as_i64().unwrap();
    let target = format!("{{\"input\":\"orders_input\",\"number\":{last}}}");
    assert_eq!(leader.post("/dead-letters/discard", &bearer, &target).await.0, 200);
    let (_, letters) = leader.get("/letters").await;
    assert_eq!(letters["inputs"][0]["dead_letters"].as_array().unwrap().len(), 1, "{letters}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_event_can_be_tried_at_once() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    receiver.reply(Reply::status(500));
    let pipeline = PIPELINE.replace("min_backoff = \"100ms\"", "min_backoff = \"5m\"\nmax_backoff = \"10m\"");
    let leader = Replica::start(&pipeline, &database.url(), &receiver).await;
    leader.becomes(200, "").await;
    covered(&client).await;
    client.batch_execute("INSERT INTO orders VALUES (1); UPDATE orders SET id = id").await.unwrap();
    let started = Instant::now();
    let parked = loop {
        let (_, letters) = leader.get("/letters").await;
        if let Some(parked) = letters["inputs"][0]["parked"].get(0) {
            break parked.clone();
        }
        assert!(started.elapsed() < LIMIT, "{letters}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(parked["next"].is_string() && parked["key"] == "1", "{parked}");
    receiver.reply(Reply::OK);
    let target = format!("{{\"input\":\"orders_input\",\"number\":{}}}", parked["number"]);
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(leader.post("/parked/retry", &bearer, &target).await.0, 200);
    receiver.wait_for(3, LIMIT).await.unwrap();
}

/// Every name that is exported must be on the page, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_metrics_are_those_that_are_exported() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    let leader = Replica::start(PIPELINE, &database.url(), &receiver).await;
    leader.becomes(200, "").await;
    covered(&client).await;
    let (_, text) = leader.text("/metrics").await;
    let exported: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let page = include_str!("../../../../docs/metrics.md");
    let documented: Vec<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.trim_end_matches('`').to_owned();
            Some((name, cells.next()?.to_owned()))
        })
        .filter(|(name, _)| name.starts_with("dapper_"))
        .collect();
    let mut sorted = documented.clone();
    sorted.sort();
    assert_eq!(exported, sorted, "left: exported, right: documented");
    for (name, _) in &exported {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }

    let dashboard: Value =
        serde_json::from_str(include_str!("../../../../docs/grafana/dapper.json")).unwrap();
    let mut asked = 0;
    for target in
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array()).flatten()
    {
        let query = target["expr"].as_str().unwrap();
        for word in query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let Some(name) = word.starts_with("dapper_").then_some(word) else { continue };
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let known = |name: &str| exported.iter().any(|(other, _)| other == name);
            assert!(known(name) || known(base), "{name} in {query}");
            asked += 1;
        }
    }
    assert!(asked >= 10, "{asked} names in the dashboard");
}

#[test]
fn what_can_not_be_served_is_said() {
    use crate::support::{Dapper, SMALL};
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = Dapper::new(SMALL, &["run", "pipeline.toml", "--http", &address]).run();
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(&format!("cannot listen on {address}")), "{}", said.err);
    let said =
        Dapper::new(SMALL, &["run", "pipeline.toml", "--http", "0"]).env("DAPPER_HTTP_TOKEN", "c4n4ry").run();
    assert!(said.err.contains("DAPPER_HTTP_TOKEN: the token must be 16"), "{}", said.err);
    let said = Dapper::new(SMALL, &["run", "pipeline.toml", "--http-host", "dapper.example"]).run();
    assert!(said.err.contains("--http-host does nothing without --http"), "{}", said.err);
    let said = Dapper::new(SMALL, &["run", "pipeline.toml", "--http", "nowhere"]).run();
    assert_eq!(said.code, Some(2), "{}", said.err);
}
