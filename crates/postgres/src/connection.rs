//! Connection strings: a URL or a key=value DSN, checked and without ever showing the password.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::PostgresError;

/// How long connecting may take in all when the connection string does not say (`connect_timeout`).
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection string that has been understood. Its `Debug` and `Display` show hosts, ports, database and user.
#[derive(Clone)]
pub struct ConnectionString {
    config: Config,
}

impl ConnectionString {
    /// Reads a URL (`postgres://` or `postgresql://`) or a DSN (`host=… dbname=…`).
    ///
    /// # Errors
    /// [`PostgresError::ConnectionString`], which says what is wrong without showing any of the text.
    pub fn parse(text: &SecretString) -> Result<Self, PostgresError> {
        let refuse = |reason: &str| PostgresError::ConnectionString { reason: reason.to_owned() };
        let text = text.expose_secret().trim();
        if text.is_empty() {
            return Err(refuse("is empty; give a URL (postgresql://user@host/database) or a key=value DSN"));
        }
        let mut config = Config::from_str(text).map_err(|_| {
            let form = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
                "URL"
            } else {
                "key=value DSN"
            };
            refuse(&format!(
                "is not a valid PostgreSQL {form}{}; expected postgresql://user:password@host:port/database or \
                 host=… port=… user=… password=… dbname=…",
                unknown_key(text).map_or_else(String::new, |key| format!(" (unsupported key {key:?})"))
            ))
        })?;
        if config.get_hosts().is_empty() {
            return Err(refuse("names no host; add one (host=… or postgresql://host/…)"));
        }
        let misshapen = |host: &Host| matches!(host, Host::Tcp(name) if name.is_empty() || name.contains(char::is_whitespace));
        if config.get_hosts().iter().any(misshapen) {
            return Err(refuse("names a host that is empty or has a space in it"));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(refuse("asks for sslmode=require, which is not supported yet; use sslmode=prefer"));
        }
        config.connect_timeout(config.get_connect_timeout().copied().unwrap_or(DEFAULT_CONNECT_TIMEOUT));
        config.keepalives(true);
        config.keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(2));
        config.keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(15));
        if config.get_hosts().len() > 1 {
            // One of them may be a standby: take the one that accepts writes.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(Self { config })
    }

    /// The client library's form of it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The limit on connecting, all of it: name look-up, TCP, authentication.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(DEFAULT_CONNECT_TIMEOUT)
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.config.get_ports();
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                #[cfg(unix)]
                Host::Unix(path) => write!(f, "{}", path.display())?,
            }
            let port = if ports.len() == 1 { ports.first() } else { ports.get(index) };
            write!(f, ":{}", port.unwrap_or(&5432))?;
        }
        if let Some(database) = self.config.get_dbname() {
            write!(f, ", database {database:?}")?;
        }
        if let Some(user) = self.config.get_user() {
            write!(f, ", user {user:?}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionString({self})")
    }
}

/// The keys that libpq knows and the client library does not: worth naming when one is why the text was refused. Only
/// a key from this list is ever shown, since anything else in the text may be part of a password.
fn unknown_key(text: &str) -> Option<&'static str> {
    const KEYS: [&str; 12] = [
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcrl",
        "passfile",
        "service",
        "replication",
        "gssencmode",
        "krbsrvname",
        "client_encoding",
        "fallback_application_name",
        "sslpassword",
    ];
    KEYS.into_iter().find(|key| {
        text.match_indices(key).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            text[at + key.len()..].starts_with('=')
                && before.is_none_or(|c| c.is_whitespace() || c == '?' || c == '&')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConnectionString, PostgresError> {
        ConnectionString::parse(&text.to_owned().into())
    }

    #[test]
    fn the_ancestors_malformed_strings_are_refused() {
        for text in ["malformed url", "postgresql:// malformed url", ""] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, PostgresError::ConnectionString { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn urls_and_dsns_are_shown_without_the_password() {
        for text in [
            "postgresql://app:canary@db.example:6432/shop",
            "host=db.example port=6432 user=app password=canary dbname=shop",
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.to_string(), "db.example:6432, database \"shop\", user \"app\"");
            assert!(!format!("{parsed:?}").contains("canary"));
        }
    }

    #[test]
    fn errors_never_show_the_text() {
        for text in [
            "postgresql://app:canary@[::1/shop",
            "host=x canary",
            "host=x password='canary",
            "canary=1",
            "postgresql://x/db?canary=canary",
            "host=x port=canary",
            "host=x sslmode=require password=canary",
        ] {
            let error = parse(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn a_known_but_unsupported_key_is_named() {
        let error = parse("host=x sslrootcert=/ca.pem password=canary").unwrap_err().to_string();
        assert!(error.contains("sslrootcert") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn several_hosts_mean_the_primary() {
        let parsed = parse("postgresql://a:1,b:2/shop").unwrap();
        assert_eq!(parsed.config().get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(parsed.to_string(), "a:1,b:2, database \"shop\"");
    }
}
