//! From a connection string to a connection: one host after the other, within one limit.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error as TlsError};
use secrecy::ExposeSecret;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::ConnectError;
use crate::connection_string::{ConnectionString, Target};
use crate::password_file;
use crate::tls::{Connector, Mode};

/// What moves the messages of a connection; somebody has to poll it.
pub type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

type Result<T, E = ConnectError> = std::result::Result<T, E>;

/// More addresses of one host are not tried.
const MAX_ADDRESSES: usize = 16;

impl ConnectionString {
    /// Connects to the first server that will do. `ours` is what the server is to call the connection, see
    /// [`application_name`](Self::application_name). Dropping the future gives up.
    ///
    /// # Errors
    /// Why the last of the servers would not do.
    pub async fn connect(&self, ours: &str) -> Result<(Client, Driver)> {
        let mut config = self.base.clone();
        config.application_name(self.application_name(ours));
        self.connect_with(&config, self.connect_timeout).await
    }

    /// As [`connect`](Self::connect), with a configuration that was made from [`base`](Self::base), and within `limit`,
    /// which is shared out evenly among the hosts that are still to be tried.
    ///
    /// # Errors
    /// Why the last of the servers would not do.
    pub async fn connect_with(&self, config: &Config, limit: Duration) -> Result<(Client, Driver)> {
        let tls = self.tls.clone();
        // Files may be on a disk that hangs.
        let connector = tokio::task::spawn_blocking(move || tls.connector());
        let all = || ConnectError::Timeout { server: self.to_string(), seconds: limit.as_secs() };
        let end = Instant::now() + limit;
        let connector =
            timeout(limit, connector).await.map_err(|_| all())?.expect("reading files does not panic")?;
        let mut targets: Vec<&Target> = self.targets.iter().collect();
        if self.shuffles {
            fastrand::shuffle(&mut targets);
        }
        let mut last = None;
        for (index, target) in targets.iter().enumerate() {
            let share = share(end, targets.len() - index);
            let late = || ConnectError::Timeout { server: self.describe(target), seconds: limit.as_secs() };
            let attempt = timeout(share, self.connect_to(target, config, &connector, (share, limit))).await;
            match attempt.unwrap_or_else(|_| Err(late())) {
                Ok(connected) => return Ok(connected),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(self.summary(last.unwrap_or_else(all)))
    }

    /// Tries the addresses of one host.
    async fn connect_to(
        &self,
        target: &Target,
        config: &Config,
        connector: &Connector,
        (own_limit, limit): (Duration, Duration),
    ) -> Result<(Client, Driver)> {
        let mut config = config.clone();
        self.add_password(target, &mut config).await?;
        config.port(target.port);
        let name = match &target.host {
            #[cfg(unix)]
            Host::Unix(path) => {
                // A socket has no network to protect, and the server does no TLS there.
                config.host_path(path).ssl_mode(SslMode::Disable);
                return self.attempt(target, &config, connector, false).await;
            }
            Host::Tcp(name) => name,
        };
        config.host(name).ssl_negotiation(self.tls.negotiation);
        config.ssl_mode(match self.tls.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        let end = Instant::now() + own_limit;
        let mut addresses: Vec<SocketAddr> = match target.address {
            Some(address) => vec![SocketAddr::new(address, target.port)],
            None => lookup_host((name.as_str(), target.port))
                .await
                .map_err(|source| ConnectError::Lookup { server: self.describe(target), source })?
                .take(MAX_ADDRESSES)
                .collect(),
        };
        if self.shuffles {
            fastrand::shuffle(&mut addresses);
        }
        let source = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut last = ConnectError::Lookup { server: self.describe(target), source: source() };
        for (index, address) in addresses.iter().enumerate() {
            let share = share(end, addresses.len() - index);
            let mut config = config.clone();
            config.hostaddr(address.ip()).connect_timeout(share);
            let late = || ConnectError::Timeout { server: self.describe(target), seconds: limit.as_secs() };
            let attempt = self.attempt(target, &config, connector, !address.ip().is_loopback());
            match timeout(share, attempt).await.unwrap_or_else(|_| Err(late())) {
                Ok(connected) => return Ok(connected),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Tries one address; with `sslmode=prefer` without TLS where it does not go with it.
    async fn attempt(
        &self,
        target: &Target,
        config: &Config,
        connector: &Connector,
        is_far: bool,
    ) -> Result<(Client, Driver)> {
        let first = connector.fresh();
        let connected = config.connect(first.clone()).await;
        let prefers = config.get_ssl_mode() == SslMode::Prefer;
        let connected = match connected {
            Err(error) if prefers && first.has_started() && may_do_without(&error) => {
                let mut plain = config.clone();
                plain.ssl_mode(SslMode::Disable);
                // When that does not go either, the first error says more.
                match plain.connect(connector.fresh()).await {
                    Ok(connected) => {
                        self.warn_of_plain(target, "the server's TLS failed");
                        return Ok(connected);
                    }
                    Err(_) => Err(error),
                }
            }
            connected => connected,
        };
        let connected = connected.map_err(|source| self.explain(target, source))?;
        if prefers && !first.has_started() && (is_far || self.tls.is_explicit) {
            self.warn_of_plain(target, "the server offers no TLS");
        }
        Ok(connected)
    }

    async fn add_password(&self, target: &Target, config: &mut Config) -> Result<()> {
        let Some(path) = self.password_file.clone().filter(|_| config.get_password().is_none()) else {
            return Ok(());
        };
        let target = target.clone();
        let database = config.get_dbname().map(str::to_owned);
        let user = config.get_user().map(str::to_owned);
        let found = tokio::task::spawn_blocking(move || {
            password_file::look_up(&path, &target, database.as_deref(), user.as_deref())
        });
        if let Some(password) = found.await.expect("reading a file does not panic")? {
            config.password(password.expose_secret());
        }
        Ok(())
    }

    /// Said once for all connections of a connection string: each would be as unprotected.
    fn warn_of_plain(&self, target: &Target, why: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let server = self.describe(target);
            tracing::warn!(
                server,
                "connected without TLS, since sslmode=prefer and {why}: what is sent can be read and changed on its way; \
                 with sslmode=verify-full it can't"
            );
        }
    }

    /// Of several servers that are all read-only, none is the one at fault.
    fn summary(&self, last: ConnectError) -> ConnectError {
        match last {
            ConnectError::ReadOnly { .. } => ConnectError::ReadOnly { server: self.to_string() },
            other => other,
        }
    }

    fn explain(&self, target: &Target, source: Error) -> ConnectError {
        let server = self.describe(target);
        if let Some(error) = tls_error(&source) {
            let source = error.clone();
            return match certificate_reason(error, target) {
                Some(reason) => ConnectError::Certificate { server, reason, source },
                None => ConnectError::Handshake { server, reason: handshake_reason(error), source },
            };
        }
        match source.source().map(ToString::to_string).as_deref() {
            Some("server does not support TLS") => ConnectError::NoTls { server, mode: self.tls.mode.name() },
            Some("database does not allow writes") => ConnectError::ReadOnly { server },
            _ => ConnectError::Refused { server, source },
        }
    }
}

/// Of the time that is left, what one of so many may take.
fn share(end: Instant, left: usize) -> Duration {
    end.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// As libpq: a server that answers and says no ends the search, unless it has no room or is not up yet. So does a server
/// that can't prove who it is, and what is wrong on our side.
fn is_final(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused { source, .. } => {
            source.code().is_some_and(|code| !matches!(code.code().get(..2), Some("53" | "57")))
        }
        ConnectError::File { .. } | ConnectError::SystemRoots { .. } => true,
        _ => false,
    }
}

/// The server takes no TLS after all, or its rules let nobody in who comes with it.
fn may_do_without(error: &Error) -> bool {
    tls_error(error).is_some() || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// The TLS library's error below the client library's.
fn tls_error(error: &Error) -> Option<&TlsError> {
    error.source()?.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

fn certificate_reason(error: &TlsError, target: &Target) -> Option<String> {
    let TlsError::InvalidCertificate(error) = error else { return None };
    Some(match error {
        CertificateError::UnknownIssuer => {
            "none of the certificates in sslrootcert vouches for it; put in the certificate of the authority that issued it"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = match error {
                CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                    presented.join(", ")
                }
                _ => "no name at all (only subject alternative names count)".to_owned(),
            };
            let host = match &target.host {
                Host::Tcp(name) => name.clone(),
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
            };
            format!(
                "it is not for {host:?} but for {names}; name the host as the certificate does (hostaddr may say where it is)"
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it on the server, and look at the clocks".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; look at the clocks".to_owned()
        }
        CertificateError::BadSignature => "its signature is wrong: somebody has tampered with it".to_owned(),
        other => format!("{other}"),
    })
}

fn handshake_reason(error: &TlsError) -> String {
    let TlsError::AlertReceived(alert) = error else { return error.to_string() };
    match alert {
        AlertDescription::CertificateRequired => {
            "the server wants a client certificate; name one with sslcert and sslkey".to_owned()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::DecryptError
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => format!(
            "the server does not accept the client certificate in sslcert ({alert:?}); it wants one that its ssl_ca_file \
             vouches for"
        ),
        AlertDescription::ProtocolVersion => {
            "the server speaks only versions of TLS that are too old or ruled out here".to_owned()
        }
        other => format!("the server ended it ({other:?})"),
    }
}
