//! A webhook receiver that remembers what it was sent and answers as it is told.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::history::Delivery;

const BODY_LIMIT_BYTES: usize = 16 << 20;

/// An HTTP server on a free port of `127.0.0.1` that takes any method and path; it ends when this is dropped.
///
/// A request is recorded when it has arrived whole, before it is answered: a sender that is killed while it waits for
/// the answer has delivered all the same.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Received {
    /// 0 for the first request, in order of arrival.
    pub sequence: usize,
    /// When it had arrived.
    pub at: Instant,
    /// `POST` and the like.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: HeaderMap,
    /// The body; `Null` when it is no JSON.
    pub body: Value,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// How long to wait first.
    pub delay: Duration,
}

/// How much a receiver remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Everything.
    Requests,
    /// Only what [`history::check`](crate::history::check) needs; for long runs.
    Deliveries,
}

/// Fewer requests than wanted came in time.
#[derive(Debug, thiserror::Error)]
#[error("{received} requests came within {waited:?}, not {wanted}")]
pub struct TooFew {
    /// How many came.
    pub received: usize,
    /// How many were waited for.
    pub wanted: usize,
    /// How long.
    pub waited: Duration,
}

struct Shared {
    memory: Memory,
    state: Mutex<Recorded>,
    count: watch::Sender<usize>,
}

struct Recorded {
    requests: Vec<Received>,
    deliveries: Vec<Delivery>,
    reply: Arc<dyn Fn(&Received) -> Reply + Send + Sync>,
}

impl Reply {
    /// `200 OK`, at once.
    pub const OK: Self = Self::status(200);

    /// A status, at once.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self { status, delay: Duration::ZERO }
    }

    /// The same after a while.
    #[must_use]
    pub const fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

impl Received {
    /// A header's value, when it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A string member of the body.
    #[must_use]
    pub fn text(&self, member: &str) -> Option<&str> {
        self.body.get(member)?.as_str()
    }
}

impl Receiver {
    /// Starts one that answers [`Reply::OK`] and remembers everything.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn start() -> io::Result<Self> {
        Self::remembering(Memory::Requests).await
    }

    /// Starts one that answers [`Reply::OK`].
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn remembering(memory: Memory) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Recorded { requests: Vec::new(), deliveries: Vec::new(), reply: Arc::new(|_| Reply::OK) };
        let shared = Arc::new(Shared { memory, state: Mutex::new(state), count: watch::Sender::new(0) });
        let router = Router::new()
            .fallback(receive)
            .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                crate::say(&format!("the receiver stopped: {error}"));
            }
        });
        Ok(Self { address, shared, server })
    }

    /// Where to send to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Answers every later request in the same way.
    pub fn reply(&self, reply: Reply) {
        self.reply_with(move |_| reply);
    }

    /// Lets a function choose the answer to every later request, by key or in any other way.
    pub fn reply_with(&self, reply: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        self.shared.lock().reply = Arc::new(reply);
    }

    /// How many requests have arrived.
    #[must_use]
    pub fn count(&self) -> usize {
        *self.shared.count.borrow()
    }

    /// All requests, in order of arrival; none when only deliveries are remembered.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.shared.lock().requests.clone()
    }

    /// The events of all requests that were answered with success, in order of arrival.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.lock().deliveries.clone()
    }

    /// Those of them from the given one on, for whoever follows along.
    #[must_use]
    pub fn deliveries_from(&self, first: usize) -> Vec<Delivery> {
        self.shared.lock().deliveries.get(first..).unwrap_or_default().to_vec()
    }

    /// Waits until at least so many requests have arrived; returns them all.
    ///
    /// # Errors
    /// When they have not within the time.
    pub async fn wait_for(&self, wanted: usize, limit: Duration) -> Result<Vec<Received>, TooFew> {
        let mut count = self.shared.count.subscribe();
        let came = tokio::time::timeout(limit, count.wait_for(|&count| count >= wanted)).await;
        // What it found locks the count, which whoever records a request needs while it holds the requests.
        let came = came.is_ok_and(|found| found.map(drop).is_ok());
        if came { Ok(self.requests()) } else { Err(TooFew { received: self.count(), wanted, waited: limit }) }
    }

    /// Resolves when another request arrives after this call.
    pub fn next_arrival(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut count = self.shared.count.subscribe();
        count.mark_unchanged();
        async move {
            let _ = count.changed().await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request and says how to answer it.
    fn record(&self, method: &Method, uri: &Uri, headers: HeaderMap, body: &[u8]) -> Reply {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut state = self.lock();
        let received = Received {
            sequence: *self.count.borrow(),
            at: Instant::now(),
            method: method.to_string(),
            path: uri.to_string(),
            headers,
            body,
        };
        let reply = (state.reply)(&received);
        if (200..300).contains(&reply.status) {
            state.deliveries.push(Delivery::from_event(&received.body, received.at));
        }
        if self.memory == Memory::Requests {
            state.requests.push(received);
        }
        // Counted under the lock, so that whoever sees the count finds the request.
        self.count.send_modify(|count| *count += 1);
        reply
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("count", &*self.count.borrow()).finish_non_exhaustive()
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let reply = shared.record(&method, &uri, headers, &body);
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
