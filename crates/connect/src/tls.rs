//! TLS as a connection string asks for it, and the connector that does it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use rustls_platform_verifier::Verifier;
use tokio_postgres::Socket;
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connection_string::Given;
use crate::verify::{Rooted, Unverified};
use crate::{ConnectError, ConnectionStringError};

/// A file with more than this is none of certificates or a key.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What `sslmode` and what belongs to it say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) mode: Mode,
    /// Whether the mode was asked for, or is the one that holds without.
    pub(crate) is_explicit: bool,
    pub(crate) negotiation: SslNegotiation,
    roots: Option<Roots>,
    client: Option<ClientFiles>,
    sends_name: bool,
    versions: Vec<&'static SupportedProtocolVersion>,
}

/// How much a connection is to be protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Roots {
    System,
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ClientFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl Mode {
    const ALL: [(&'static str, Self); 5] = [
        ("disable", Self::Disable),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

impl TlsSettings {
    pub(crate) fn read(given: &Given<'_>, binds_channel: bool) -> Result<Self, ConnectionStringError> {
        let mode = read_mode(given)?;
        let roots = given.text("sslrootcert").map(|text| match text {
            "system" => Roots::System,
            path => Roots::File(path.into()),
        });
        let is_explicit = mode.is_some();
        // With the system's many authorities, a certificate says something only together with the name in it.
        let mode = mode.unwrap_or(if roots == Some(Roots::System) { Mode::VerifyFull } else { Mode::Prefer });
        if roots == Some(Roots::System) && mode != Mode::VerifyFull {
            let reason = "has sslrootcert=system with a weaker sslmode than verify-full; anybody can get a certificate \
                          from an authority that the system trusts: use sslmode=verify-full";
            return Err(given.refuse("sslrootcert", reason));
        }
        if mode >= Mode::VerifyCa && roots.is_none() {
            let reason = format!(
                "has sslmode={} without sslrootcert; name the file with the certificate of the authority that issued the \
                 server's, or system",
                mode.name()
            );
            return Err(given.refuse("sslrootcert", &reason));
        }
        if binds_channel && mode == Mode::Disable {
            let reason =
                "has channel_binding=require with sslmode=disable; there is nothing to bind to without TLS";
            return Err(given.refuse("channel_binding", reason));
        }
        let negotiation = match given.one_of("sslnegotiation", &["postgres", "direct"])? {
            Some("direct") if mode < Mode::Require => {
                let reason = "has sslnegotiation=direct, which needs sslmode=require or stronger";
                return Err(given.refuse("sslnegotiation", reason));
            }
            Some("direct") => SslNegotiation::Direct,
            _ => SslNegotiation::Postgres,
        };
        Ok(Self {
            mode,
            is_explicit,
            negotiation,
            roots,
            client: read_client(given)?,
            sends_name: given.flag("sslsni")?.unwrap_or(true),
            versions: read_versions(given)?,
        })
    }

    /// Reads the files. Blocks for as long as that takes.
    pub(crate) fn connector(&self) -> Result<Connector, ConnectError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = self.verifier(&provider)?;
        let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions);
        let builder = versions
            .expect("the provider knows both versions, and at least one is wanted")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = files.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    file_error(
                        "sslkey",
                        &files.key,
                        format!("does not go with the certificate in sslcert: {error}"),
                    )
                })?
            }
        };
        config.enable_sni = self.sends_name;
        if self.negotiation == SslNegotiation::Direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Connector { inner: MakeRustlsConnect::new(config), started: Arc::default() })
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, ConnectError> {
        match (&self.roots, self.mode) {
            (_, Mode::Disable | Mode::Prefer) | (None, _) => Ok(Arc::new(Unverified::new(provider))),
            (Some(Roots::System), _) => Verifier::new(Arc::clone(provider))
                .map(|verifier| Arc::new(verifier) as Arc<dyn ServerCertVerifier>)
                .map_err(|error| ConnectError::SystemRoots { reason: error.to_string() }),
            // With `require` too, as libpq does: who names an authority wants it asked.
            (Some(Roots::File(path)), mode) => {
                let certificates = read_certificates("sslrootcert", path)?;
                let rooted = Rooted::new(certificates, mode == Mode::VerifyFull, provider)
                    .map_err(|reason| file_error("sslrootcert", path, reason))?;
                Ok(Arc::new(rooted))
            }
        }
    }
}

impl ClientFiles {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ConnectError> {
        let chain = read_certificates("sslcert", &self.certificate)?;
        refuse_readable("sslkey", &self.key)?;
        let text = read_file("sslkey", &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
            let reason =
                "has no private key in PEM without a password; openssl pkey -in OLD -out NEW writes one";
            file_error("sslkey", &self.key, reason)
        })?;
        Ok((chain, key))
    }
}

fn read_mode(given: &Given<'_>) -> Result<Option<Mode>, ConnectionStringError> {
    if given.text("sslmode") == Some("allow") {
        let reason = "has sslmode=allow, which is not supported: it takes TLS only where the server insists; use prefer, \
                      or better verify-full";
        return Err(given.refuse("sslmode", reason));
    }
    let name = given.one_of("sslmode", &Mode::ALL.map(|(name, _)| name))?;
    Ok(name.and_then(|name| Mode::ALL.iter().find(|(other, _)| *other == name)).map(|(_, mode)| *mode))
}

fn read_client(given: &Given<'_>) -> Result<Option<ClientFiles>, ConnectionStringError> {
    let sends = given.one_of("sslcertmode", &["disable", "allow"])? != Some("disable");
    match (given.text("sslcert"), given.text("sslkey")) {
        (Some(certificate), Some(key)) if sends => {
            Ok(Some(ClientFiles { certificate: certificate.into(), key: key.into() }))
        }
        (Some(_), None) if sends => {
            Err(given.refuse("sslkey", "has sslcert without sslkey; name the file of its key"))
        }
        (None, Some(_)) if sends => {
            Err(given.refuse("sslcert", "has sslkey without sslcert; name the file of its certificate"))
        }
        _ => Ok(None),
    }
}

fn read_versions(given: &Given<'_>) -> Result<Vec<&'static SupportedProtocolVersion>, ConnectionStringError> {
    // Older ones are never spoken, so that a lower least version is met.
    let least = given.one_of("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"])?;
    let most = given.one_of("ssl_max_protocol_version", &["TLSv1.2", "TLSv1.3"])?;
    let versions = [(least != Some("TLSv1.3"), &TLS12), (most != Some("TLSv1.2"), &TLS13)];
    let versions: Vec<_> = versions.into_iter().filter(|(wanted, _)| *wanted).map(|(_, it)| it).collect();
    if versions.is_empty() {
        let reason = "has a ssl_max_protocol_version below its ssl_min_protocol_version";
        return Err(given.refuse("ssl_max_protocol_version", reason));
    }
    Ok(versions)
}

fn read_certificates(
    parameter: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let text = read_file(parameter, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(file_error(parameter, path, "has no certificates in PEM (-----BEGIN CERTIFICATE-----)")),
    }
}

fn read_file(parameter: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    let failed = |error: io::Error| file_error(parameter, path, format!("can't be read: {error}"));
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE_BYTES {
        return Err(file_error(parameter, path, format!("is larger than {MAX_FILE_BYTES} bytes")));
    }
    fs::read(path).map_err(failed)
}

/// A key, or a file of passwords, that others than its owner can read is a secret no longer. A group may read what root
/// owns: so it is with the secrets that a container is given.
pub(crate) fn refuse_readable(parameter: &'static str, path: &Path) -> Result<(), ConnectError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path)
            .map_err(|error| file_error(parameter, path, format!("can't be read: {error}")))?;
        let allowed = if metadata.uid() == 0 { 0o740 } else { 0o700 };
        if metadata.mode() & 0o777 & !allowed != 0 {
            let reason =
                "is open to others than its owner; run chmod 0600 on it (0640 will do where root owns it)";
            return Err(file_error(parameter, path, reason));
        }
    }
    Ok(())
}

pub(crate) fn file_error(parameter: &'static str, path: &Path, reason: impl Into<String>) -> ConnectError {
    ConnectError::File { parameter, path: path.to_owned(), reason: reason.into() }
}

/// The TLS library's connector, which also tells whether it was used.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: MakeRustlsConnect,
    started: Arc<AtomicBool>,
}

pub(crate) struct Connect {
    inner: <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect,
    started: Arc<AtomicBool>,
}

impl Connector {
    /// For one connection attempt.
    pub(crate) fn fresh(&self) -> Self {
        Self { inner: self.inner.clone(), started: Arc::default() }
    }

    /// Whether a handshake was begun; a connection that then came to be has TLS.
    pub(crate) fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = Connect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, Self::Error> {
        let inner = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.inner, host)?;
        Ok(Connect { inner, started: Arc::clone(&self.started) })
    }
}

type Inner = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;

impl TlsConnect<Socket> for Connect {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type Error = <Inner as TlsConnect<Socket>>::Error;
    type Future = <Inner as TlsConnect<Socket>>::Future;

    fn connect(self, stream: Socket) -> Self::Future {
        self.started.store(true, Ordering::Release);
        self.inner.connect(stream)
    }
}
