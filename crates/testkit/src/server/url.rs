//! Connection strings for one server and any of its databases.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::ServerError;

/// Where a server is and who connects. `Debug` shows no password.
#[derive(Clone)]
pub(super) struct ConnectionString {
    host: String,
    port: u16,
    user: String,
    password: String,
    database: String,
    options: String,
}

impl ConnectionString {
    pub(super) fn new(host: &str, port: u16, user: &str, password: &str, database: &str) -> Self {
        let [host, user, password, database] = [host, user, password, database].map(str::to_owned);
        Self { host, port, user, password, database, options: String::new() }
    }

    /// Reads a URL or a key=value string of one host, without TLS.
    pub(super) fn parse(text: &str) -> Result<Self, ServerError> {
        let refuse = |reason: &str| ServerError::Url { reason: reason.to_owned() };
        // The parser's message may quote the string, and with it the password.
        let config = Config::from_str(text).map_err(|_| refuse("it is no valid URL or key=value string"))?;
        let [host] = config.get_hosts() else { return Err(refuse("it must name exactly one host")) };
        let host = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) => {
                folder.to_str().ok_or_else(|| refuse("its socket folder is not UTF-8"))?.to_owned()
            }
        };
        let user = config.get_user().ok_or_else(|| refuse("it names no user"))?;
        let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let mut target = Self::new(&host, port, user, &password, config.get_dbname().unwrap_or(user));
        target.options = config.get_options().unwrap_or_default().to_owned();
        Ok(target)
    }

    pub(super) fn with_user(&self, user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned(), ..self.clone() }
    }

    pub(super) fn with_address(&self, address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), ..self.clone() }
    }

    pub(super) fn host_and_port(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }

    /// Host and port, which are no secret.
    pub(super) fn address(&self) -> String {
        format!("{} port {}", self.host, self.port)
    }

    pub(super) fn own_url(&self) -> String {
        self.url(&self.database)
    }

    pub(super) fn url(&self, database: &str) -> String {
        let mut url = format!("postgresql://{}", Encoded(&self.user));
        if !self.password.is_empty() {
            let _ = write!(url, ":{}", Encoded(&self.password));
        }
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            Encoded(&self.host).to_string()
        };
        let _ = write!(url, "@{host}:{}/{}", self.port, Encoded(database));
        if !self.options.is_empty() {
            let _ = write!(url, "?options={}", Encoded(&self.options));
        }
        url
    }

    pub(super) fn dsn(&self, database: &str) -> String {
        let mut dsn = format!("host={} port={} user={}", Quoted(&self.host), self.port, Quoted(&self.user));
        for (name, value) in [("password", &self.password), ("options", &self.options)] {
            if !value.is_empty() {
                let _ = write!(dsn, " {name}={}", Quoted(value));
            }
        }
        let _ = write!(dsn, " dbname={}", Quoted(database));
        dsn
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Percent-encoded for any part of a URL.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.as_bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                f.write_char(byte.into())?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// Quoted as a value of a key=value string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty()
            && self.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte))
        {
            return f.write_str(self.0);
        }
        write!(f, "'{}'", self.0.replace('\\', "\\\\").replace('\'', "\\'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_same_database() {
        let target = ConnectionString::new("127.0.0.1", 5433, "o'mal ley", r"p@ss:w/o\r'd", "postgres");
        assert_eq!(
            target.url("a b"),
            "postgresql://o%27mal%20ley:p%40ss%3Aw%2Fo%5Cr%27d@127.0.0.1:5433/a%20b"
        );
        for text in [target.url("a b"), target.dsn("a b")] {
            let read = ConnectionString::parse(&text).unwrap();
            assert_eq!(read.url("x"), target.url("x"), "{text}");
            assert_eq!(read.database, "a b");
        }
    }

    #[test]
    fn what_was_given_is_kept() {
        let socket = ConnectionString::parse("host=/run/postgresql user=me options='-c geqo=off'").unwrap();
        assert_eq!(socket.own_url(), "postgresql://me@%2Frun%2Fpostgresql:5432/me?options=-c%20geqo%3Doff");
        assert_eq!(ConnectionString::parse(&socket.own_url()).unwrap().own_url(), socket.own_url());
    }

    #[test]
    fn nothing_secret_is_shown() {
        for text in ["postgresql:// canary", "host=a,b user=canary password=canary", "password=canary host=a"]
        {
            let error = ConnectionString::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
        let target = ConnectionString::parse("postgresql://u:canary@h/d").unwrap();
        assert!(!format!("{target:?} {}", target.address()).contains("canary"));
    }
}
