//! A server that does TLS, and what came of connecting to it.

use std::error::Error;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use dapper_connect::{ConnectError, ConnectionString};
use dapper_testkit::{Server, ServerOptions};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::certificates::Pair;

/// The rules of a server that lets its superuser in with the password, by TLS or not.
pub(crate) const EITHER: &str = "host all all 127.0.0.1/32 scram-sha-256";

/// A server with a certificate, and a folder for the client's files.
pub(crate) struct TlsServer {
    pub(crate) server: Server,
    pub(crate) folder: TempDir,
    pub(crate) password: String,
}

impl TlsServer {
    /// Starts it with a certificate and with rules as in `pg_hba.conf`; `authority` is the one for clients.
    pub(crate) async fn start(pair: &Pair, rules: &str, authority: Option<&str>) -> Self {
        let (certificate, key) = (pair.certificate.clone(), pair.key.clone());
        let (rules, authority) = (rules.to_owned(), authority.map(str::to_owned));
        let started = tokio::task::spawn_blocking(move || {
            let server = Server::start(&ServerOptions::default()).unwrap();
            let data = server.directory().unwrap().join("data");
            own_file(&data, "server.crt", &certificate);
            own_file(&data, "server.key", &key);
            let mut settings = "ssl = on\n".to_owned();
            if let Some(authority) = authority {
                own_file(&data, "clients.crt", &authority);
                settings.push_str("ssl_ca_file = 'clients.crt'\n");
            }
            let file = data.join("postgresql.auto.conf");
            fs::write(&file, fs::read_to_string(&file).unwrap() + &settings).unwrap();
            own_file(&data, "pg_hba.conf", &format!("local all all scram-sha-256\n{rules}\n"));
            server.restart().unwrap();
            server
        });
        let server = started.await.unwrap();
        let url = server.url("postgres");
        let password = url.split([':', '@']).nth(2).unwrap().to_owned();
        Self { server, folder: tempfile::tempdir().unwrap(), password }
    }

    /// A connection string for it, host aside.
    pub(crate) fn dsn(&self, rest: &str) -> String {
        let (_, port) = self.server.address();
        format!("user=dapper password={} dbname=postgres port={port} {rest}", self.password)
    }

    /// Connects, and says whether by TLS; an error is looked through for the password.
    pub(crate) async fn connect(&self, rest: &str) -> Result<bool, ConnectError> {
        connect(&self.dsn(rest), &self.password).await
    }

    /// Connects and expects an error that says all of `expected`.
    pub(crate) async fn refuses(&self, rest: &str, expected: &[&str]) -> ConnectError {
        refuses(&self.dsn(rest), &self.password, expected).await
    }

    /// Writes a file for the client, not readable by others.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }
}

pub(crate) async fn connect(text: &str, secret: &str) -> Result<bool, ConnectError> {
    let connected = open(text).await;
    let client = connected.inspect_err(|error| {
        let shown = format!("{} {error:?}", chain(error));
        assert!(!shown.contains(secret), "the password is in {shown}");
    })?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await.unwrap().get(0))
}

pub(crate) async fn open(text: &str) -> Result<Client, ConnectError> {
    let connection: ConnectionString = text.parse().unwrap();
    let (client, driver) = connection.connect("dapper test").await?;
    tokio::spawn(driver);
    Ok(client)
}

pub(crate) async fn refuses(text: &str, secret: &str, expected: &[&str]) -> ConnectError {
    let error = connect(text, secret).await.expect_err(text);
    let shown = chain(&error);
    for part in expected {
        assert!(shown.contains(part), "{part:?} is not in {shown:?}");
    }
    error
}

pub(crate) fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Gives a file to whoever owns the server's data.
fn own_file(data: &Path, name: &str, text: &str) {
    let path: PathBuf = data.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let owner = fs::metadata(data).unwrap();
    if owner.uid() != fs::metadata(&path).unwrap().uid() {
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}
