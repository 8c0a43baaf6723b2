//! A TCP proxy that spoils the connections which go through it, as it is told.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 << 10;

/// Listens on a free port of `127.0.0.1` and passes bytes on to a server and back, with whatever faults it is told to
/// have: for all connections, those to come included, or for one. It ends, and all its connections with it, when this
/// is dropped. Needs no right that a test has not.
///
/// What it cannot show is a network that is gone: a new connection is always accepted, and each side's own system
/// goes on confirming what it was sent. For that there is [`Namespace`](crate::Namespace).
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

/// What is wrong with both directions of a connection; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// On the way from the client to the server.
    pub to_server: Flow,
    /// On the way from the server to the client.
    pub to_client: Flow,
}

/// What is wrong with one direction; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Nothing passes, not even the end of the connection. What is held back passes when this is over.
    pub silent: bool,
    /// Each piece passes so much later, and the next is taken in only then.
    pub delay: Duration,
    /// The receiver is told that nothing more comes, though the other direction goes on: a connection half closed.
    pub ended: bool,
    /// After so many more bytes both directions are closed, without a word of what is still on its way.
    pub cut_after_bytes: Option<u64>,
}

/// One connection through a [`Proxy`].
#[derive(Clone, Debug)]
pub struct ProxiedConnection {
    faults: watch::Sender<State>,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<(String, u16)>,
    default: Mutex<Faults>,
    connections: Mutex<Vec<ProxiedConnection>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    faults: Faults,
    reset: bool,
}

impl Flow {
    /// Nothing passes.
    pub const SILENT: Self = Self { silent: true, ..Self::FINE };
    /// Half closed.
    pub const ENDED: Self = Self { ended: true, ..Self::FINE };
    /// Nothing is wrong.
    pub const FINE: Self = Self { silent: false, delay: Duration::ZERO, ended: false, cut_after_bytes: None };

    /// Late.
    #[must_use]
    pub const fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::FINE }
    }

    /// Closed after so many more bytes.
    #[must_use]
    pub const fn cut_after(bytes: u64) -> Self {
        Self { cut_after_bytes: Some(bytes), ..Self::FINE }
    }
}

impl Faults {
    /// Nothing is wrong.
    pub const NONE: Self = Self { to_server: Flow::FINE, to_client: Flow::FINE };
    /// Nothing passes in either direction.
    pub const SILENT: Self = Self { to_server: Flow::SILENT, to_client: Flow::SILENT };

    /// Only the way to the server is bad.
    #[must_use]
    pub const fn to_server(flow: Flow) -> Self {
        Self { to_server: flow, to_client: Flow::FINE }
    }

    /// Only the way to the client is bad.
    #[must_use]
    pub const fn to_client(flow: Flow) -> Self {
        Self { to_server: Flow::FINE, to_client: flow }
    }
}

impl Proxy {
    /// Starts one in front of a server's host and port.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn start(server: (String, u16)) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            default: Mutex::new(Faults::NONE),
            connections: Mutex::new(Vec::new()),
        });
        Ok(Self { address, listener: tokio::spawn(listen(listener, Arc::clone(&shared))), shared })
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what is wrong with all connections from now on, those to come included.
    pub fn set(&self, faults: Faults) {
        // Under the lock that a new connection takes its own faults under, so that none is missed.
        let mut default = lock(&self.shared.default);
        *default = faults;
        for connection in &*lock(&self.shared.connections) {
            connection.set(faults);
        }
    }

    /// Takes connections to come to another server; those there are stay where they are.
    pub fn lead_to(&self, server: (String, u16)) {
        *lock(&self.shared.server) = server;
    }

    /// Makes all well again, and lets what was held back pass.
    pub fn heal(&self) {
        self.set(Faults::NONE);
    }

    /// Resets all connections there are.
    pub fn reset(&self) {
        for connection in self.connections() {
            connection.reset();
        }
    }

    /// The connections there are, in the order in which they were made.
    #[must_use]
    pub fn connections(&self) -> Vec<ProxiedConnection> {
        lock(&self.shared.connections).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.reset();
    }
}

impl ProxiedConnection {
    /// Sets what is wrong with this connection from now on.
    pub fn set(&self, faults: Faults) {
        self.faults.send_modify(|state| state.faults = faults);
    }

    /// Ends it so that both sides get an error instead of an end, even if it is silent.
    pub fn reset(&self) {
        self.faults.send_modify(|state| state.reset = true);
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let faults = watch::Sender::new(State::default());
        let connection = ProxiedConnection { faults };
        {
            let default = lock(&shared.default);
            connection.set(*default);
            lock(&shared.connections).push(connection.clone());
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let server = lock(&shared.server).clone();
            serve(client, &server, &connection.faults).await;
            lock(&shared.connections).retain(|other| !other.faults.same_channel(&connection.faults));
        });
    }
}

/// One connection, to its end. A server that cannot be reached is one that resets.
async fn serve(mut client: TcpStream, server: &(String, u16), faults: &watch::Sender<State>) {
    let Ok(mut server) = TcpStream::connect((server.0.as_str(), server.1)).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut reset = faults.subscribe();
    let reset = tokio::select! {
        // The sender is borrowed by this very function, so the channel is open.
        _ = reset.wait_for(|state| state.reset) => true,
        // A reset from either side ends both directions. Whoever is gone is not: what it sent before, and is held back,
        // still arrives, as it would from a network.
        _ = async {
            tokio::try_join!(
                pass(from_client, to_server, faults, |faults| &mut faults.to_server),
                pass(from_server, to_client, faults, |faults| &mut faults.to_client),
            )
        } => false,
    };
    if reset {
        // What is closed with a linger time of zero is reset.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Passes one direction on until it ends.
async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    faults: &watch::Sender<State>,
    direction: fn(&mut Faults) -> &mut Flow,
) -> io::Result<()> {
    let mut states = faults.subscribe();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let flow = until_open(&mut states, direction).await;
        if flow.ended {
            return to.shutdown().await;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = states.changed() => continue,
        };
        // What was read just before is held back, too.
        let mut flow = until_open(&mut states, direction).await;
        if !flow.delay.is_zero() {
            tokio::time::sleep(flow.delay).await;
            flow = until_open(&mut states, direction).await;
        }
        if read == 0 || flow.ended {
            return to.shutdown().await;
        }
        let left = flow.cut_after_bytes.map_or(read, |left| usize::try_from(left).unwrap_or(read));
        if to.write_all(&buffer[..read.min(left)]).await.is_err() {
            // The other direction comes to its end by itself.
            return Ok(());
        }
        if left <= read && flow.cut_after_bytes.is_some() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        faults.send_if_modified(|state| {
            let left = &mut direction(&mut state.faults).cut_after_bytes;
            *left = left.map(|left| left.saturating_sub(read as u64));
            false
        });
    }
}

/// Waits until the direction is not silent; says what else is wrong with it.
async fn until_open(states: &mut watch::Receiver<State>, direction: fn(&mut Faults) -> &mut Flow) -> Flow {
    let flow = |state: &State| *direction(&mut state.faults.clone());
    let open = states.wait_for(|state| !flow(state).silent).await;
    open.map_or(Flow::FINE, |state| flow(&state))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
