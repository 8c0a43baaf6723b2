//! The server from outside, over raw sockets, by clients of every kind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dapper_core::CancellationToken;
use dapper_http::{
    Action, Graph, HEADER_LIMIT, Kind, Letter, MOST_BODY_BYTES, MOST_CONNECTIONS, Observation, Registry,
    Server, ServerOptions, Source, SourceError, Watch,
};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TOKEN: &str = "a-token-of-the-tests";
const RETRY: &str = "/dead-letters/retry";
const TARGET: &str = "{\"input\":\"i\",\"number\":1}";
const LIMIT: Duration = Duration::from_secs(60);

/// A source without databases, which does what it is asked.
struct Obliging;

#[async_trait]
impl Source for Obliging {
    async fn observe(&self, _: &str) -> Result<Option<Observation>, SourceError> {
        Ok(None)
    }
    async fn letters(&self, _: &str, _: u32) -> Result<(Vec<Letter>, Vec<Letter>), SourceError> {
        // Long enough for several to come together.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok((Vec::new(), Vec::new()))
    }
    async fn act(&self, _: Action, _: Kind, _: &str, number: i64) -> Result<u64, SourceError> {
        Ok(number.unsigned_abs())
    }
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Running {
    async fn start(token: Option<&str>) -> Self {
        let options = ServerOptions {
            address: "127.0.0.1:0".parse().unwrap(),
            token: token.map(SecretString::from),
            hosts: Vec::new(),
        };
        let server = Server::bind(options).await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        let (inputs, processes) = (vec!["i".to_owned()], vec!["p".to_owned()]);
        let graph = Graph { inputs, processes, links: vec![("i".into(), "p".into())] };
        let watch = Watch::new(graph, Registry::default(), Arc::new(Obliging), stop.child_token());
        tokio::spawn(server.serve(watch, stop.clone()));
        Self { address, stop }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes as they are; the whole answer.
    async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // It may be turned away before it has said all.
        let _ = stream.write_all(request.as_ref()).await;
        let mut answer = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> u16 {
        let head = "host: localhost\r\nconnection: close\r\ncontent-type: application/json";
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        status(&self.raw(request).await)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn status(answer: &str) -> u16 {
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no status: {answer:?}"))
}

fn bearer() -> String {
    format!("authorization: Bearer {TOKEN}\r\n")
}

#[tokio::test]
async fn every_answer_tells_browsers_to_keep_others_out() {
    let server = Running::start(None).await;
    for path in ["/", "/live", "/page.css", "/nothing"] {
        let answer = server.get(path).await.to_ascii_lowercase();
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "cache-control: no-store",
        ] {
            assert!(answer.contains(header), "{path}: {header} in {answer}");
        }
    }
    assert_eq!(status(&server.get("/nothing").await), 404);
    assert_eq!(server.post("/live", "", "").await, 405);
}

#[tokio::test]
async fn the_page_names_no_other_host() {
    let server = Running::start(None).await;
    for path in ["/", "/page.css", "/page.js", "/graph.js", "/plot.js", "/letters.js", "/favicon.svg"] {
        let answer = server.get(path).await;
        assert_eq!(status(&answer), 200, "{path}");
        let body = answer.split_once("\r\n\r\n").unwrap().1.replace("http://www.w3.org/2000/svg", "");
        assert!(!body.contains("://"), "{path} names another host");
        assert!(!body.contains("innerHTML") && !body.contains("style=\""), "{path}");
    }
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let server = Running::start(Some(TOKEN)).await;
    for request in
        ["nonsense\r\n\r\n", "GET / HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n", "GET  HTTP/1.1\r\n\r\n"]
    {
        assert_eq!(status(&server.raw(request).await), 400, "{request:?}");
    }
    let more = "{\"input\":\"i\",\"number\":1,\"more\":2}";
    for body in ["", "{}", "[]", "{\"input\":\"i\",\"number\":\"1\"}", more] {
        assert_eq!(server.post(RETRY, &bearer(), body).await, 400, "{body}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = Running::start(Some(TOKEN)).await;
    assert_eq!(server.post(RETRY, &bearer(), &"x".repeat(MOST_BODY_BYTES + 1)).await, 413);
    let get = "GET /live HTTP/1.1\r\nhost: localhost\r\n";
    let long = format!("{get}long: {}\r\n\r\n", "x".repeat(20 * 1024));
    assert_eq!(status(&server.raw(long).await), 431);
    let many = format!("{get}{}\r\n", "a: b\r\n".repeat(200));
    assert_eq!(status(&server.raw(many).await), 431);
}

#[tokio::test]
async fn actions_need_a_token_and_come_from_here() {
    let server = Running::start(Some(TOKEN)).await;
    assert_eq!(server.post(RETRY, &bearer(), TARGET).await, 200);
    assert_eq!(server.post(RETRY, "", TARGET).await, 401);
    assert_eq!(server.post(RETRY, "authorization: Bearer wrong\r\n", TARGET).await, 401);
    for foreign in ["origin: http://evil.example", "origin: null", "sec-fetch-site: cross-site"] {
        assert_eq!(server.post(RETRY, &format!("{}{foreign}\r\n", bearer()), TARGET).await, 403, "{foreign}");
    }
    let rebound = server.raw("GET /status HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status(&rebound), 403);
    for _ in 0..8 {
        assert_eq!(server.post(RETRY, "", TARGET).await, 401);
    }
    assert_eq!(server.post(RETRY, &bearer(), TARGET).await, 429, "too many wrong ones");

    let server = Running::start(None).await;
    assert_eq!(server.post(RETRY, &bearer(), TARGET).await, 404, "no token, no actions");
}

#[tokio::test]
async fn questions_to_the_database_are_few_at_a_time() {
    let server = Arc::new(Running::start(None).await);
    let ask = |server: Arc<Running>| async move { status(&server.get("/letters").await) };
    let asked: Vec<_> = (0..12).map(|_| tokio::spawn(ask(Arc::clone(&server)))).collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.unwrap());
    }
    assert!(answers.contains(&200) && answers.contains(&503), "{answers:?}");
}

#[tokio::test]
async fn slow_clients_are_given_up_and_further_ones_turned_away_meanwhile() {
    let server = Running::start(None).await;
    let mut slow = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: loc").await.unwrap();
        slow.push(stream);
    }
    let turned_away = server.get("/live").await;
    assert_eq!(status(&turned_away), 503);
    let body = turned_away.split_once("\r\n\r\n").unwrap().1;
    assert!(turned_away.contains(&format!("content-length: {}\r\n", body.len())), "{turned_away}");
    for stream in &mut slow {
        let mut answer = Vec::new();
        let given_up = timeout(HEADER_LIMIT * 4, stream.read_to_end(&mut answer)).await;
        assert!(given_up.is_ok(), "a slow client is kept");
    }
    assert_eq!(status(&server.get("/live").await), 200, "there is room again");
}

#[tokio::test]
async fn a_body_that_never_comes_is_not_waited_for() {
    let server = Running::start(Some(TOKEN)).await;
    let head =
        format!("POST {RETRY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{}", bearer());
    let answer = server.raw(format!("{head}connection: close\r\ncontent-length: 100\r\n\r\n{{")).await;
    assert_eq!(status(&answer), 408);
}

/// Whatever comes in, it is no mistake of the server's, and the server answers the next one.
#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_do_no_harm() {
    let server = Arc::new(Running::start(Some(TOKEN)).await);
    let until = Instant::now() + Duration::from_secs(5);
    let clients: Vec<_> = (0..8)
        .map(|seed| tokio::spawn(babble(Arc::clone(&server), fastrand::Rng::with_seed(seed), until)))
        .collect();
    let mut requests = 0;
    for client in clients {
        requests += client.await.unwrap();
    }
    assert!(requests > 100, "only {requests}");
    assert_eq!(status(&server.get("/live").await), 200);
}

async fn babble(server: Arc<Running>, mut random: fastrand::Rng, until: Instant) -> u32 {
    const FRAGMENTS: [&str; 18] = [
        "GET ",
        "POST ",
        "/",
        "/letters",
        RETRY,
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "host: localhost\r\n",
        "content-length: 5\r\n",
        "content-length: -1\r\n",
        "transfer-encoding: chunked\r\n",
        "\r\n",
        "\r\n\r\n",
        "5\r\nhello\r\n",
        "authorization: Bearer ",
        "expect: 100-continue\r\n",
        "origin: null\r\n",
        "%00%ff/../..",
    ];
    let mut requests = 0;
    while Instant::now() < until {
        let mut request = Vec::new();
        for _ in 0..random.usize(1..12) {
            if random.u8(..) < 200 {
                request.extend_from_slice(FRAGMENTS[random.usize(..FRAGMENTS.len())].as_bytes());
            } else {
                request.extend((0..random.usize(0..40)).map(|_| random.u8(..)));
            }
        }
        let mut stream = server.connect().await;
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        // However it ends, it must.
        let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 500"), "{answer} to {request:?}");
        requests += 1;
    }
    requests
}
