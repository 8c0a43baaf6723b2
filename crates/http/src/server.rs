//! Listens, and keeps every client within bounds: how many, how large, how slow, for how long.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use dapper_core::CancellationToken;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::guard::Guard;
use crate::routes::{Shared, router};
use crate::watch::Watch;

/// Connections at the same time; further ones are told so and closed.
pub const MOST_CONNECTIONS: usize = 64;
/// Connections that are being told so, at the same time; further ones are closed without a word.
const MOST_REFUSALS: usize = 32;
/// How long the headers of a request may take, and a connection may idle.
pub const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How large the headers of a request may be, together.
const MOST_HEADER_BYTES: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
/// How long a connection may last; then it ends with the request that is under way.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// How long that request may take, and the answer to whoever is slow to read it.
const LAST_REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait when the system has no more sockets.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
content-length: 33\r\nconnection: close\r\n\r\n{\"error\":\"too many connections\"}\n";

/// Where to listen, and who may do what.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where to listen.
    pub address: SocketAddr,
    /// What a request to act must say; without one no action exists.
    pub token: Option<SecretString>,
    /// Names under which the server may be spoken to, besides `localhost` and addresses.
    pub hosts: Vec<String>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address can't be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
}

impl Server {
    /// Listens; answers nothing yet.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub async fn bind(options: ServerOptions) -> Result<Self, ServerError> {
        let error = |source| ServerError::Listen { address: options.address, source };
        let listener = TcpListener::bind(options.address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address, options })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn serve(self, watch: Arc<Watch>, stop: CancellationToken) {
        let guard = Guard::new(self.options.token, self.options.hosts);
        let router = router(Arc::new(Shared::new(watch, guard)));
        let (seats, refusals) =
            (Arc::new(Semaphore::new(MOST_CONNECTIONS)), Arc::new(Semaphore::new(MOST_REFUSALS)));
        // Dropped with this call, and with it every connection.
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            };
            if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
                let router = router.clone();
                connections.spawn(async move {
                    converse(stream, router).await;
                    drop(seat);
                });
            } else if let Ok(seat) = Arc::clone(&refusals).try_acquire_owned() {
                connections.spawn(async move {
                    // Whoever does not take the answer within a second goes without it.
                    let _ = timeout(Duration::from_secs(1), refuse(stream)).await;
                    drop(seat);
                });
            }
        }
    }
}

/// One connection, to its end.
async fn converse(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(MOST_HEADER_BYTES)
        .max_headers(MOST_HEADERS);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // How a connection ends is the client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(CONNECTION_LIMIT) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_REQUEST_LIMIT, connection).await;
}

async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(BUSY).await?;
    stream.shutdown().await?;
    // Closing with something unread would take the answer back.
    let mut unread = [0; 1024];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut unread) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
}
