//! A database for one test.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};

use crate::{Server, ServerError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DROP_TIMEOUT: Duration = Duration::from_secs(30);

/// A fresh, empty database that no other test uses.
///
/// On a server of `DAPPER_TEST_DATABASE_URL` it is dropped with this value, whoever is still connected. A throw-away
/// server takes its databases with it when it goes; dropping one earlier would force a checkpoint on the tests that
/// still run.
#[derive(Debug)]
pub struct Database {
    server: Server,
    name: String,
}

impl Database {
    /// Makes one on the [shared server](Server::shared), which the first caller starts.
    ///
    /// # Errors
    /// When there is no server, or its role may not create databases.
    pub async fn create() -> Result<Self, ServerError> {
        let server = tokio::task::spawn_blocking(Server::shared).await.unwrap_or_else(|error| {
            Err(ServerError::Shared { reason: format!("the thread that started it failed: {error}") })
        })?;
        Self::create_on(server).await
    }

    /// Makes one on a server.
    ///
    /// # Errors
    /// When the server does not answer, or its role may not create databases.
    pub async fn create_on(server: &Server) -> Result<Self, ServerError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let name = format!("dapper_test_{}_{number}_{unique}", std::process::id());
        let client = connect(&server.maintenance_url()).await?;
        let statement = format!("CREATE DATABASE {name}");
        client.batch_execute(&statement).await.map_err(failed(&statement))?;
        Ok(Self { server: server.clone(), name })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL, password included.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// The same as a key=value string.
    #[must_use]
    pub fn dsn(&self) -> String {
        self.server.dsn(&self.name)
    }

    /// Its URL for another role.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.server.url_as(&self.name, user, password)
    }

    /// Its URL by way of another address, such as a [`Proxy`](crate::Proxy)'s.
    #[must_use]
    pub fn url_via(&self, address: SocketAddr) -> String {
        self.server.url_via(&self.name, address)
    }

    /// The server it is on.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Opens a session. A task of the current runtime drives it until the client is dropped.
    ///
    /// # Errors
    /// When the server does not answer within ten seconds, or refuses.
    pub async fn connect(&self) -> Result<Client, ServerError> {
        connect(&self.url()).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !self.server.is_borrowed() {
            return;
        }
        let url = self.server.maintenance_url();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A thread with a runtime of its own: this may run inside another runtime, or in none.
        let dropped = thread::spawn(move || -> Result<(), String> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(async {
                let work = async {
                    connect(&url).await?.batch_execute(&statement).await.map_err(failed(&statement))
                };
                match tokio::time::timeout(DROP_TIMEOUT, work).await {
                    Ok(done) => done.map_err(|error| crate::chain(&error)),
                    Err(_) => Err(format!("no answer within {} s", DROP_TIMEOUT.as_secs())),
                }
            })
        });
        if let Ok(Err(reason)) = dropped.join() {
            crate::say(&format!("database {} stays: {reason}", self.name));
        }
    }
}

/// Opens a session for a connection string, driven by a task of the current runtime.
///
/// # Errors
/// When the string is malformed, or the server does not answer within ten seconds, or refuses.
pub async fn connect(url: &str) -> Result<Client, ServerError> {
    let mut config: Config = url.parse().map_err(failed("reading the connection string"))?;
    config.connect_timeout(CONNECT_TIMEOUT).application_name("dapper-testkit");
    let (client, connection) = config.connect(NoTls).await.map_err(failed("connecting"))?;
    tokio::spawn(async move {
        // How the session ended is for whoever uses the client; each of its calls reports it.
        let _ = connection.await;
    });
    Ok(client)
}

fn failed(action: &str) -> impl FnOnce(tokio_postgres::Error) -> ServerError + use<> {
    let action = action.to_owned();
    move |source| ServerError::Database { action, source }
}
