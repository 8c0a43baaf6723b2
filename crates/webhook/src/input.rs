//! The input: an HTTP endpoint whose requests are events.

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{
    CancellationToken, Delivery, ErrorKind, EventSink, Input, InputConfig, InputError, Registry, Validity,
};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::input_settings::InputSettings;
use crate::receive::{self, Refusal};

/// Connections at the same time, besides one for each request that may be under way; further ones wait to be taken.
const SPARE_CONNECTIONS: usize = 64;
/// How long the head of a request may take, and a connection may idle.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How large the head of a request may be.
const MOST_HEAD_BYTES: usize = 16 * 1024;
/// How long to wait when the system has no more sockets.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long what is under way may take after the stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// What whoever comes too early is told to wait, in seconds.
const COME_BACK_AFTER_S: &str = "1";

/// Takes requests for events; see the documentation of the crate.
pub struct WebhookInput {
    id: String,
    settings: Arc<InputSettings>,
}

/// What the requests of one run share.
struct Desk {
    id: String,
    settings: Arc<InputSettings>,
    sink: EventSink,
    stop: CancellationToken,
    /// One place for each request that is under way, until nothing of its event is left.
    places: Arc<Semaphore>,
}

/// Events may be given to processes for as long as their request waits.
struct Waiting(AtomicBool);

/// Ends with the request.
struct EndOfWaiting(Arc<Waiting>);

impl Validity for Waiting {
    fn is_valid(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for EndOfWaiting {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// Adds the input to `registry`, under type [`KIND`](crate::KIND).
pub fn register_input(registry: &mut Registry) {
    registry.register_input(crate::KIND, |config| {
        Box::pin(async move { Ok(Arc::new(WebhookInput::new(&config)?) as Arc<dyn Input>) })
    });
}

/// Looks at the configuration of an input; listens nowhere.
///
/// # Errors
/// When it can't be used as it stands.
pub fn validate_input(config: &InputConfig) -> Result<(), InputError> {
    InputSettings::read(config).map(drop)
}

impl WebhookInput {
    /// Makes the input; it does not listen yet.
    ///
    /// # Errors
    /// When the configuration can't be used as it stands.
    pub fn new(config: &InputConfig) -> Result<Self, InputError> {
        Ok(Self { id: config.name.replace('-', "_"), settings: Arc::new(InputSettings::read(config)?) })
    }

    fn failed(&self, source: &std::io::Error) -> InputError {
        let reason = format!("cannot listen on {}", self.settings.listen);
        let source = std::io::Error::new(source.kind(), format!("{reason}: {source}"));
        InputError::Failed { input: self.id.clone(), kind: ErrorKind::Transient, source: source.into() }
    }
}

#[async_trait]
impl Input for WebhookInput {
    fn id(&self) -> &str {
        &self.id
    }

    async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
        let settings = &self.settings;
        let listener = TcpListener::bind(settings.listen).await.map_err(|error| self.failed(&error))?;
        let address = listener.local_addr().map_err(|error| self.failed(&error))?;
        tracing::info!(input = self.id, %address, path = settings.path, "taking requests");
        let desk = Arc::new(Desk {
            id: self.id.clone(),
            settings: Arc::clone(settings),
            sink,
            stop: stop.clone(),
            places: Arc::new(Semaphore::new(settings.max_waiting)),
        });
        let seats = Arc::new(Semaphore::new(settings.max_waiting + SPARE_CONNECTIONS));
        // Dropped with this call, and with it every connection.
        let mut connections = JoinSet::new();
        loop {
            let seat = tokio::select! {
                () = stop.cancelled() => break,
                seat = Arc::clone(&seats).acquire_owned() => seat,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let desk = Arc::clone(&desk);
                        connections.spawn(async move {
                            desk.converse(stream).await;
                            drop(seat);
                        });
                    }
                    Err(_) => sleep(ACCEPT_AGAIN_AFTER).await,
                },
            }
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        let rest = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(DRAIN_LIMIT, rest).await;
        Ok(())
    }
}

impl Desk {
    /// One connection, to its end.
    async fn converse(self: &Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| async {
            let outcome = self.take(request).await;
            Ok::<_, Infallible>(response(&outcome))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MOST_HEAD_BYTES);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        // How a connection ends is the client's affair.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }

    /// Takes a request over: that is done when every process has handled its event.
    async fn take(&self, request: Request<Incoming>) -> Result<Arc<str>, Refusal> {
        let operation = receive::operation(&self.settings, &request)?;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let reason = format!("{} requests are under way already", self.settings.max_waiting);
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, reason));
        };
        let event = receive::event(&self.settings, &self.id, operation, request).await?;
        let event_id: Arc<str> = event.event_id.as_deref().unwrap_or_default().into();
        let unavailable = |reason: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason);
        let waiting = Arc::new(Waiting(AtomicBool::new(true)));
        // However this ends, with a client that hangs up too, nothing is begun for the event after it.
        let _end = EndOfWaiting(Arc::clone(&waiting));
        let handled = async {
            let (delivery, mut receipt) = Delivery::with_validity(vec![event], waiting);
            self.sink.send(delivery).await.map_err(|_| unavailable("the replica stops".to_owned()))?;
            // The place is taken until a run that this request no longer waits for has ended, too.
            let (told, settled) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                (&mut receipt).await;
                drop(place);
                let _ = told.send(receipt.is_handled());
            });
            match settled.await {
                Ok(true) => Ok(()),
                _ => Err(unavailable("the event was not handled; send it again".to_owned())),
            }
        };
        match timeout(self.settings.timeout, handled).await {
            Ok(handled) => handled.map(|()| event_id),
            Err(_) => {
                let reason =
                    format!("the event was not handled within {:?}; send it again", self.settings.timeout);
                Err(unavailable(reason))
            }
        }
    }
}

fn response(outcome: &Result<Arc<str>, Refusal>) -> Response<Full<Bytes>> {
    let (status, body) = receive::answer(outcome);
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    let response = match status {
        StatusCode::UNAUTHORIZED => response.header(WWW_AUTHENTICATE, "Bearer"),
        StatusCode::METHOD_NOT_ALLOWED => response.header(ALLOW, "POST, PUT, PATCH, DELETE"),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            response.header(RETRY_AFTER, COME_BACK_AFTER_S)
        }
        _ => response,
    };
    response.body(Full::new(Bytes::from(body))).expect("the headers are constants")
}

impl fmt::Debug for WebhookInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookInput").field("id", &self.id).field("settings", &self.settings).finish()
    }
}
