//! The proxy's faults, between a client and a server that are both at hand.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use dapper_testkit::{Faults, Flow, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(5);
/// Long enough for what should pass to have passed.
const A_WHILE: Duration = Duration::from_millis(100);

/// A client and the server's end of its connection, with the proxy between them.
struct Pair {
    proxy: Proxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    async fn connect() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Proxy::start(("127.0.0.1".to_owned(), port)).await.unwrap();
        let (client, server) = another(&proxy, &listener).await;
        Self { proxy, listener, client, server }
    }
}

async fn another(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    let (server, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    (client, server)
}

async fn passes(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    timeout(LIMIT, to.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"hello");
}

async fn is_silent(to: &mut TcpStream) {
    let mut buffer = [0; 5];
    assert!(timeout(A_WHILE, to.read(&mut buffer)).await.is_err(), "something came: {buffer:?}");
}

async fn ended(to: &mut TcpStream) -> std::io::Result<usize> {
    timeout(LIMIT, to.read(&mut [0; 5])).await.unwrap()
}

#[tokio::test]
async fn both_ways_pass_and_an_end_of_one_leaves_the_other() {
    let Pair { proxy: _proxy, mut client, mut server, .. } = Pair::connect().await;
    passes(&mut client, &mut server).await;
    passes(&mut server, &mut client).await;
    client.shutdown().await.unwrap();
    assert_eq!(ended(&mut server).await.unwrap(), 0);
    passes(&mut server, &mut client).await;
    drop(server);
    assert_eq!(ended(&mut client).await.unwrap(), 0);
}

#[tokio::test]
async fn silence_holds_everything_back_the_end_included_and_healing_lets_it_pass() {
    let Pair { proxy, mut client, mut server, .. } = Pair::connect().await;
    proxy.set(Faults::SILENT);
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    server.write_all(b"hello").await.unwrap();
    is_silent(&mut server).await;
    is_silent(&mut client).await;
    proxy.heal();
    let mut all = Vec::new();
    timeout(LIMIT, server.read_to_end(&mut all)).await.unwrap().unwrap();
    assert_eq!(all, b"hello");
    let mut buffer = [0; 5];
    timeout(LIMIT, client.read_exact(&mut buffer)).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_held_back_arrives_although_its_sender_is_gone_and_has_been_written_to() {
    let Pair { proxy, mut client, mut server, .. } = Pair::connect().await;
    proxy.set(Faults::to_server(Flow::SILENT));
    client.write_all(b"hello").await.unwrap();
    drop(client);
    for _ in 0..3 {
        // Whoever is gone answers this with a reset.
        server.write_all(b"news").await.unwrap();
        tokio::time::sleep(A_WHILE).await;
    }
    proxy.heal();
    let mut buffer = [0; 5];
    timeout(LIMIT, server.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"hello");
}

#[tokio::test]
async fn each_way_can_be_silent_alone() {
    let Pair { proxy, mut client, mut server, .. } = Pair::connect().await;
    proxy.set(Faults::to_client(Flow::SILENT));
    passes(&mut client, &mut server).await;
    server.write_all(b"hello").await.unwrap();
    is_silent(&mut client).await;
    proxy.set(Faults::to_server(Flow::SILENT));
    let mut buffer = [0; 5];
    timeout(LIMIT, client.read_exact(&mut buffer)).await.unwrap().unwrap();
    passes(&mut server, &mut client).await;
    client.write_all(b"hello").await.unwrap();
    is_silent(&mut server).await;
}

#[tokio::test]
async fn one_connection_can_be_bad_alone_and_a_new_one_is_as_all_are() {
    let Pair { proxy, listener, mut client, mut server } = Pair::connect().await;
    let (mut other_client, mut other_server) = another(&proxy, &listener).await;
    let connections = proxy.connections();
    assert_eq!(connections.len(), 2);
    connections[0].set(Faults::SILENT);
    client.write_all(b"hello").await.unwrap();
    is_silent(&mut server).await;
    passes(&mut other_client, &mut other_server).await;
    proxy.set(Faults::SILENT);
    let (mut new_client, mut new_server) = another(&proxy, &listener).await;
    new_client.write_all(b"hello").await.unwrap();
    is_silent(&mut new_server).await;
}

#[tokio::test]
async fn a_delay_is_added() {
    let Pair { proxy, mut client, mut server, .. } = Pair::connect().await;
    proxy.set(Faults::to_server(Flow::delayed(A_WHILE)));
    let start = Instant::now();
    passes(&mut client, &mut server).await;
    assert!(start.elapsed() >= A_WHILE, "{:?}", start.elapsed());
    let start = Instant::now();
    passes(&mut server, &mut client).await;
    assert!(start.elapsed() < A_WHILE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_half_closed_connection_still_passes_the_other_way() {
    let Pair { proxy, mut client, mut server, .. } = Pair::connect().await;
    proxy.set(Faults::to_client(Flow::ENDED));
    assert_eq!(ended(&mut client).await.unwrap(), 0);
    passes(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_cut_lets_so_many_bytes_pass_and_no_more() {
    let Pair { proxy, mut client, mut server, .. } = Pair::connect().await;
    proxy.set(Faults::to_server(Flow::cut_after(8)));
    passes(&mut client, &mut server).await;
    client.write_all(b"hello").await.unwrap();
    let mut rest = Vec::new();
    timeout(LIMIT, server.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"hel");
    assert_eq!(ended(&mut client).await.unwrap(), 0);
    assert!(proxy.connections().is_empty());
}

#[tokio::test]
async fn a_reset_is_an_error_on_both_sides_even_while_silent() {
    let Pair { proxy, mut client, mut server, .. } = Pair::connect().await;
    passes(&mut client, &mut server).await;
    proxy.set(Faults::SILENT);
    proxy.reset();
    for end in [&mut client, &mut server] {
        assert_eq!(ended(end).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_resets_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let proxy = Proxy::start(("127.0.0.1".to_owned(), port)).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ended(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
