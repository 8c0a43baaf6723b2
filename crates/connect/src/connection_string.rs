//! [`ConnectionString`]: what the parameters mean together.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, TargetSessionAttrs};

use crate::ConnectionStringError;
use crate::parse::{Pairs, parse};
use crate::tls::TlsSettings;

/// How long connecting may take in all when the connection string does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is gone is noticed after these: a reader that waits for it must look for another.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVES_COUNT: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);

/// PostgreSQL cuts an `application_name` off beyond this.
const APPLICATION_NAME_BYTES: usize = 63;
/// More are a mistake.
const MAX_HOSTS: usize = 32;

/// A connection string that has been understood. Its `Debug` and `Display` show hosts, ports, database and user.
#[derive(Clone)]
pub struct ConnectionString {
    /// Everything but hosts, ports, TLS and a password from a file.
    pub(crate) base: Config,
    /// At least one.
    pub(crate) targets: Vec<Target>,
    pub(crate) tls: TlsSettings,
    pub(crate) shuffles: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) password_file: Option<PathBuf>,
    application_name: Option<String>,
    /// Whether somebody has been warned that there is no TLS; shared by all clones.
    pub(crate) warned: Arc<AtomicBool>,
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: Host,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

impl ConnectionString {
    /// Reads a URL (`postgres://` or `postgresql://`) or key=value pairs (`host=… dbname=…`). Reads no file.
    ///
    /// # Errors
    /// What is wrong, without any of the text.
    pub fn parse(text: &SecretString) -> Result<Self, ConnectionStringError> {
        Self::from_pairs(&parse(text.expose_secret())?)
    }

    pub(crate) fn from_pairs(pairs: &Pairs) -> Result<Self, ConnectionStringError> {
        let given = Given(pairs);
        if given.text("service").is_some() {
            return Err(given.refuse("service", "names a service, and nobody has looked it up"));
        }
        given.one_of("client_encoding", &["UTF8", "utf8", "UTF-8", "utf-8", "auto"])?;
        given.one_of("sslcompression", &["0"])?;
        given.one_of("gssencmode", &["disable", "prefer"])?;
        let targets = targets(&given)?;
        let base = base(&given, targets.len())?;
        let application_name = given.text("application_name").or(given.text("fallback_application_name"));
        Ok(Self {
            tls: TlsSettings::read(&given, base.get_channel_binding() == ChannelBinding::Require)?,
            shuffles: given.one_of("load_balance_hosts", &["disable", "random"])? == Some("random"),
            connect_timeout: connect_timeout(&given)?,
            password_file: given.text("passfile").map(PathBuf::from),
            application_name: application_name.map(str::to_owned),
            warned: Arc::default(),
            base,
            targets,
        })
    }

    /// What the client library is told, but for hosts, TLS and a password from a file. Whoever changes some of it passes it
    /// to [`connect_with`](Self::connect_with).
    #[must_use]
    pub fn base(&self) -> &Config {
        &self.base
    }

    /// The limit on connecting, all of it, over all hosts.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How many hosts there are.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.targets.len()
    }

    /// What the server is to show for a connection: `ours`, and behind it what the connection string asks for, as far as
    /// there is room.
    #[must_use]
    pub fn application_name(&self, ours: &str) -> String {
        let name = match &self.application_name {
            Some(own) => format!("{ours} {own}"),
            None => ours.to_owned(),
        };
        let fits = |end: &usize| name.is_char_boundary(*end);
        let end = (0..=name.len().min(APPLICATION_NAME_BYTES)).rev().find(fits).unwrap_or_default();
        name[..end].to_owned()
    }

    /// Host, port, database and user of one of its hosts.
    pub(crate) fn describe(&self, target: &Target) -> String {
        let mut text = target.to_string();
        self.describe_rest(&mut text);
        text
    }

    fn describe_rest(&self, text: &mut String) {
        if let Some(database) = self.base.get_dbname() {
            text.push_str(&format!(", database {database:?}"));
        }
        if let Some(user) = self.base.get_user() {
            text.push_str(&format!(", user {user:?}"));
        }
    }
}

impl FromStr for ConnectionString {
    type Err = ConnectionStringError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_pairs(&parse(text)?)
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        let mut text = targets.join(",");
        self.describe_rest(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionString({self})")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            #[cfg(unix)]
            Host::Unix(path) => write!(f, "{}:{}", path.display(), self.port),
        }
    }
}

/// The values that were given.
pub(crate) struct Given<'p>(&'p Pairs);

impl<'p> Given<'p> {
    pub(crate) fn text(&self, name: &'static str) -> Option<&'p str> {
        self.0.iter().rev().find(|(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    /// A value is never shown: what was meant for a password may have come to be one of another parameter.
    pub(crate) fn refuse(&self, name: &'static str, reason: &str) -> ConnectionStringError {
        ConnectionStringError::of(name, reason)
    }

    pub(crate) fn one_of(
        &self,
        name: &'static str,
        values: &[&'static str],
    ) -> Result<Option<&'static str>, ConnectionStringError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match values.iter().find(|value| **value == text) {
            Some(value) => Ok(Some(value)),
            None => {
                let values = values.join(", ");
                Err(self.refuse(name, &format!("has a value of {name} that is none of these: {values}")))
            }
        }
    }

    pub(crate) fn flag(&self, name: &'static str) -> Result<Option<bool>, ConnectionStringError> {
        Ok(self.one_of(name, &["0", "1"])?.map(|value| value == "1"))
    }

    fn number(&self, name: &'static str) -> Result<Option<u32>, ConnectionStringError> {
        let number = |text: &str| {
            text.parse().map_err(|_| {
                self.refuse(name, &format!("has a value of {name} that is no whole number from 0 on"))
            })
        };
        self.text(name).map(number).transpose()
    }

    fn seconds(&self, name: &'static str, default: Duration) -> Result<Duration, ConnectionStringError> {
        let seconds = self.number(name)?.filter(|seconds| *seconds > 0);
        Ok(seconds.map_or(default, |seconds| Duration::from_secs(seconds.into())))
    }
}

fn targets(given: &Given<'_>) -> Result<Vec<Target>, ConnectionStringError> {
    let list = |name| given.text(name).map(|text| text.split(',').collect::<Vec<_>>()).unwrap_or_default();
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len());
    if count == 0 {
        return Err(
            given.refuse("host", "names no host; add one (host=… or postgresql://host/…), or set PGHOST")
        );
    }
    if count > MAX_HOSTS {
        return Err(given.refuse("host", &format!("names more than {MAX_HOSTS} hosts")));
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(given.refuse("hostaddr", "must name as many addresses in hostaddr as hosts in host"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(given.refuse("port", "must name one port, or as many as hosts"));
    }
    let port = |index: usize| {
        let text = if ports.len() == 1 { ports.first() } else { ports.get(index) };
        match text.copied().unwrap_or_default() {
            "" => Ok(5432),
            text => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| given.refuse("port", "has a port that is no number from 1 to 65535")),
        }
    };
    let target = |index: usize| {
        let address = addresses.get(index).filter(|text| !text.is_empty()).map(|text| text.parse::<IpAddr>());
        let address = address.transpose().map_err(|_| {
            given.refuse("hostaddr", "has a hostaddr that is no numeric address; use host for names")
        })?;
        // A host that only its address is known of goes by that, in certificates too.
        let host = match (hosts.get(index).copied().unwrap_or_default(), address) {
            ("", Some(address)) => Host::Tcp(address.to_string()),
            (name, _) if name.is_empty() || name.contains(char::is_whitespace) => {
                return Err(given.refuse("host", "names a host that is empty or has a space in it"));
            }
            #[cfg(unix)]
            (path, _) if path.starts_with('/') => Host::Unix(path.into()),
            (name, _) => Host::Tcp(name.to_owned()),
        };
        Ok(Target { host, address, port: port(index)? })
    };
    (0..count).map(target).collect()
}

fn base(given: &Given<'_>, hosts: usize) -> Result<Config, ConnectionStringError> {
    let mut config = Config::new();
    if let Some(user) = given.text("user") {
        config.user(user);
    }
    if let Some(password) = given.text("password") {
        config.password(password);
    }
    if let Some(database) = given.text("dbname") {
        config.dbname(database);
    }
    if let Some(options) = given.text("options") {
        config.options(options);
    }
    config.keepalives(given.flag("keepalives")?.unwrap_or(true));
    config.keepalives_idle(given.seconds("keepalives_idle", KEEPALIVES_IDLE)?);
    config.keepalives_interval(given.seconds("keepalives_interval", KEEPALIVES_INTERVAL)?);
    let count = given.number("keepalives_count")?.filter(|count| *count > 0);
    config.keepalives_retries(count.unwrap_or(KEEPALIVES_COUNT));
    match given.number("tcp_user_timeout")? {
        None => drop(config.tcp_user_timeout(TCP_USER_TIMEOUT)),
        Some(0) => {}
        Some(milliseconds) => drop(config.tcp_user_timeout(Duration::from_millis(milliseconds.into()))),
    }
    config.channel_binding(match given.one_of("channel_binding", &["disable", "prefer", "require"])? {
        Some("disable") => ChannelBinding::Disable,
        Some("require") => ChannelBinding::Require,
        _ => ChannelBinding::Prefer,
    });
    config.target_session_attrs(session_attributes(given, hosts)?);
    Ok(config)
}

/// Of several hosts one may be a standby: unless told otherwise, the one that accepts writes is taken.
fn session_attributes(given: &Given<'_>, hosts: usize) -> Result<TargetSessionAttrs, ConnectionStringError> {
    let name = "target_session_attrs";
    match given.text(name) {
        Some("read-only" | "standby" | "prefer-standby") => Err(given.refuse(
            name,
            "asks for a server that only reads by target_session_attrs; this program writes where it has read to: use \
             read-write or primary",
        )),
        // A primary that refuses writes is of no use.
        Some("primary") => Ok(TargetSessionAttrs::ReadWrite),
        None if hosts > 1 => Ok(TargetSessionAttrs::ReadWrite),
        _ => match given.one_of(name, &["any", "read-write", "primary"])? {
            Some("read-write") => Ok(TargetSessionAttrs::ReadWrite),
            _ => Ok(TargetSessionAttrs::Any),
        },
    }
}

fn connect_timeout(given: &Given<'_>) -> Result<Duration, ConnectionStringError> {
    match given.number("connect_timeout")? {
        Some(0) => {
            let reason = "has connect_timeout=0, to wait for ever; give the seconds that connecting may take";
            Err(given.refuse("connect_timeout", reason))
        }
        Some(seconds) => Ok(Duration::from_secs(seconds.into())),
        None => Ok(CONNECT_TIMEOUT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PARAMETERS, Support};

    fn parse(text: &str) -> ConnectionString {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> ConnectionStringError {
        text.parse::<ConnectionString>().expect_err(text)
    }

    #[test]
    fn the_ancestors_malformed_strings_are_refused() {
        for text in ["malformed url", "postgresql:// malformed url", "", "postgresql://"] {
            refused(text);
        }
    }

    #[test]
    fn urls_and_pairs_are_shown_without_the_password() {
        for text in [
            "postgresql://app:canary@db.example:6432/shop",
            "host=db.example port=6432 user=app password=canary dbname=shop",
        ] {
            let parsed = parse(text);
            assert_eq!(parsed.to_string(), "db.example:6432, database \"shop\", user \"app\"");
            assert!(!format!("{parsed:?} {:?}", parsed.base()).contains("canary"));
        }
    }

    #[test]
    fn several_hosts_mean_the_one_that_accepts_writes() {
        let parsed = parse("postgresql://a:1,[::1]:2,/shop?hostaddr=,,127.0.0.1");
        assert_eq!(parsed.to_string(), "a:1,[::1]:2,127.0.0.1:5432, database \"shop\"");
        assert_eq!(parsed.base().get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        let attributes = |text| parse(text).base().get_target_session_attrs();
        assert_eq!(attributes("host=a"), TargetSessionAttrs::Any);
        assert_eq!(attributes("host=a,b target_session_attrs=any"), TargetSessionAttrs::Any);
        assert_eq!(attributes("host=a target_session_attrs=primary"), TargetSessionAttrs::ReadWrite);
        for attributes in ["read-only", "standby", "prefer-standby"] {
            let error = refused(&format!("host=a target_session_attrs={attributes}"));
            assert!(error.reason.contains("read-write or primary"), "{error}");
        }
    }

    #[test]
    fn units_are_those_of_libpq() {
        let given =
            parse("host=a connect_timeout=7 tcp_user_timeout=1500 keepalives_idle=9 keepalives_count=4");
        assert_eq!(given.connect_timeout(), Duration::from_secs(7));
        assert_eq!(given.base().get_tcp_user_timeout(), Some(&Duration::from_millis(1_500)));
        assert_eq!(given.base().get_keepalives_idle(), Duration::from_secs(9));
        assert_eq!(given.base().get_keepalives_retries(), Some(4));
        let own = parse("host=a");
        assert_eq!(own.base().get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        assert_eq!(own.base().get_keepalives_idle(), KEEPALIVES_IDLE);
        assert_eq!(parse("host=a tcp_user_timeout=0").base().get_tcp_user_timeout(), None);
        assert!(!parse("host=a keepalives=0").base().get_keepalives());
    }

    #[test]
    fn our_application_name_comes_first_and_fits() {
        assert_eq!(parse("host=a").application_name("dapper x"), "dapper x");
        let parsed = parse("host=a application_name='billing é' fallback_application_name=other");
        assert_eq!(parsed.application_name("dapper x"), "dapper x billing é");
        let long = format!("dapper {}", "n".repeat(47));
        let cut = parsed.application_name(&long);
        assert_eq!((cut.len(), cut), (63, format!("{long} billing ")));
        assert_eq!(parsed.application_name(&"é".repeat(40)).len(), 62);
    }

    #[test]
    fn a_wrong_value_names_its_parameter_and_is_not_shown() {
        for (text, parameter) in [
            ("host=a port=canary", "port"),
            ("host=a port=1,2", "port"),
            ("host=a port=0", "port"),
            ("host=a hostaddr=canary", "hostaddr"),
            ("host=a,b hostaddr=127.0.0.1", "hostaddr"),
            ("host='can ary'", "host"),
            ("host=a connect_timeout=canary", "connect_timeout"),
            ("host=a connect_timeout=0", "connect_timeout"),
            ("host=a tcp_user_timeout=-1", "tcp_user_timeout"),
            ("host=a keepalives=canary", "keepalives"),
            ("host=a load_balance_hosts=canary", "load_balance_hosts"),
            ("host=a target_session_attrs=canary", "target_session_attrs"),
            ("host=a channel_binding=canary", "channel_binding"),
            ("host=a client_encoding=canary", "client_encoding"),
            ("host=a gssencmode=require", "gssencmode"),
            ("host=a sslcompression=1", "sslcompression"),
            ("host=a service=canary", "service"),
            ("host=a sslmode=canary", "sslmode"),
            ("dbname=d", "host"),
        ] {
            let error = refused(&format!("{text} password=canary"));
            assert_eq!(error.parameter, Some(parameter), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{text}: {error}");
        }
        refused(&"h,".repeat(MAX_HOSTS + 1));
    }

    /// Each that is said to be supported is read by somebody, and each other is refused.
    #[test]
    fn the_table_says_what_happens() {
        for parameter in PARAMETERS {
            let name = parameter.name;
            let error = match parameter.support {
                Support::No(remedy) => {
                    let error = refused(&format!("host=a {name}=x"));
                    assert!(error.reason.contains(remedy), "{error}");
                    error
                }
                // One without the other is what is refused.
                Support::Yes(_) if matches!(name, "sslcert" | "sslkey") => {
                    assert!(refused(&format!("host=a {name}=x")).reason.contains(name));
                    continue;
                }
                // They take any text.
                Support::Yes(_) if ANY_TEXT.contains(&name) => {
                    parse(&format!("host=a {name}=x"));
                    continue;
                }
                Support::Yes(_) => refused(&format!("host='a' {name}=' nonsense '")),
            };
            assert_eq!(error.parameter, Some(name), "{error}");
        }
    }

    const ANY_TEXT: [&str; 8] = [
        "sslrootcert",
        "dbname",
        "user",
        "password",
        "passfile",
        "options",
        "application_name",
        "fallback_application_name",
    ];
}
