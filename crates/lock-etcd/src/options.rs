//! Where etcd is, and what else a store can be told.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// What an [`EtcdLockStore`](crate::EtcdLockStore) is told. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct EtcdLockOptions {
    /// The members of one cluster, tried in turn; `http://127.0.0.1:2379` by default.
    pub endpoints: Vec<Endpoint>,
    /// Who asks; nobody by default, which is right where etcd's authentication is off. The user needs the right to
    /// read and write the keys that start with [`prefix`](Self::prefix), and no other.
    pub user: Option<EtcdUser>,
    /// What the keys of this store start with; `dapper/locks/` by default. Those who contend must name the same one.
    pub prefix: String,
    /// How long connecting to one endpoint may take, authentication included; five seconds by default.
    pub connect_timeout: Duration,
    /// The certificates, in PEM, that `https` endpoints are checked against; those of the system when it is empty.
    pub tls_roots: Vec<u8>,
}

/// The address of a member: `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(String);

/// A user of etcd.
#[derive(Clone, Debug)]
pub struct EtcdUser {
    /// The user's name.
    pub name: String,
    /// The user's password.
    pub password: SecretString,
}

/// Why a text can't be the address of an etcd cluster. Shows nothing of the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {number} of etcd {problem}")]
pub struct AddressError {
    /// Which of the addresses, from one.
    pub number: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl EtcdLockOptions {
    /// The options for the cluster that a text names: `http://host:2379`, several separated by commas, and a user in
    /// any of them as in `https://user:password@host:2379`. In the user's name and password `%40` stands for `@`, `%2C`
    /// for a comma, and so on.
    ///
    /// # Errors
    /// [`AddressError`] when one of them is no such address, or when two name different users.
    pub fn from_connection_string(text: &SecretString) -> Result<Self, AddressError> {
        let mut options = Self { endpoints: Vec::new(), ..Self::default() };
        for (index, part) in text.expose_secret().split(',').enumerate() {
            let at = |problem| AddressError { number: index + 1, problem };
            let (endpoint, user) = read(part).map_err(at)?;
            options.endpoints.push(endpoint);
            match (&options.user, user) {
                (_, None) => {}
                (None, some) => options.user = some,
                (Some(first), Some(other)) if first.is(&other) => {}
                (Some(_), Some(_)) => return Err(at("names another user than one before it")),
            }
        }
        Ok(options)
    }
}

impl Default for EtcdLockOptions {
    fn default() -> Self {
        Self {
            endpoints: vec![Endpoint("http://127.0.0.1:2379".to_owned())],
            user: None,
            prefix: "dapper/locks/".to_owned(),
            connect_timeout: Duration::from_secs(5),
            tls_roots: Vec::new(),
        }
    }
}

impl EtcdUser {
    fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.password.expose_secret() == other.password.expose_secret()
    }
}

impl Endpoint {
    /// The address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl FromStr for Endpoint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let at = |problem| AddressError { number: 1, problem };
        match read(text).map_err(at)? {
            (endpoint, None) => Ok(endpoint),
            (_, Some(_)) => Err(at("names a user, for which there is an option of its own")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One address and the user in it.
fn read(text: &str) -> Result<(Endpoint, Option<EtcdUser>), &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty");
    }
    let url = Url::parse(text).map_err(|_| "is no URL, such as http://host:2379")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("starts with neither http:// nor https://");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("has something after host and port");
    }
    // A URL of these two schemes has a host.
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let endpoint = Endpoint(format!("{}://{host}{port}", url.scheme()));
    if url.username().is_empty() {
        return match url.password() {
            Some(_) => Err("has a password without a user"),
            None => Ok((endpoint, None)),
        };
    }
    let password = url.password().ok_or("has a user without a password")?;
    let decode =
        |text| percent_decode_str(text).decode_utf8().map_err(|_| "has a user or password that is not UTF-8");
    let name = decode(url.username())?.into_owned();
    let password = SecretString::from(decode(password)?.into_owned());
    Ok((endpoint, Some(EtcdUser { name, password })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EtcdLockOptions, AddressError> {
        EtcdLockOptions::from_connection_string(&text.into())
    }

    #[test]
    fn members_and_a_user_are_read() {
        let options = parse("http://a:2379, https://app:p%40s%2Cs@b.example,http://[::1]:2379/").unwrap();
        let endpoints: Vec<&str> = options.endpoints.iter().map(Endpoint::as_str).collect();
        assert_eq!(endpoints, ["http://a:2379", "https://b.example", "http://[::1]:2379"]);
        let user = options.user.clone().unwrap();
        assert_eq!((user.name.as_str(), user.password.expose_secret()), ("app", "p@s,s"));
        assert!(!format!("{options:?}").contains("p@s,s"), "{options:?}");
        assert!(parse("http://u:p@a,http://u:p@b").is_ok());
    }

    #[test]
    fn what_is_no_address_is_named_without_being_shown() {
        for (text, number, problem) in [
            ("", 1, "is empty"),
            ("http://a,", 2, "is empty"),
            ("canary", 1, "is no URL, such as http://host:2379"),
            ("http://", 1, "is no URL, such as http://host:2379"),
            ("postgres://u:canary@h/db", 1, "starts with neither http:// nor https://"),
            ("etcd.canary:2379", 1, "starts with neither http:// nor https://"),
            ("http://a,http://u:canary@b/x", 2, "has something after host and port"),
            ("http://:canary@h", 1, "has a password without a user"),
            ("http://canary@h", 1, "has a user without a password"),
            ("http://u:%ffcanary@h", 1, "has a user or password that is not UTF-8"),
            ("http://u:canary@a,http://v:canary@b", 2, "names another user than one before it"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, AddressError { number, problem }, "{text}");
            assert!(!error.to_string().contains("canary"));
        }
        assert!("http://u:p@h".parse::<Endpoint>().is_err());
        assert_eq!("http://h:2379/".parse::<Endpoint>().unwrap().as_str(), "http://h:2379");
    }
}
