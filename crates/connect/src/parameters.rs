//! Every parameter of libpq, and what becomes of it here.

use crate::ConnectionStringError;

/// A parameter of connection strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name in connection strings.
    pub name: &'static str,
    /// The variable that stands for it where the string says nothing.
    pub variable: Option<&'static str>,
    /// What becomes of it.
    pub support: Support,
}

/// What becomes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Support {
    /// It does as in libpq, for these values.
    Yes(&'static str),
    /// It is refused; what to do instead.
    No(&'static str),
}

const fn yes(name: &'static str, variable: &'static str, values: &'static str) -> Parameter {
    Parameter { name, variable: Some(variable), support: Support::Yes(values) }
}

const fn own(name: &'static str, values: &'static str) -> Parameter {
    Parameter { name, variable: None, support: Support::Yes(values) }
}

const fn no(name: &'static str, variable: Option<&'static str>, remedy: &'static str) -> Parameter {
    Parameter { name, variable, support: Support::No(remedy) }
}

const KERBEROS: &str = "Kerberos is not supported; use a password or a client certificate";
const REVOCATION: &str =
    "revocation lists are not read; give an authority of its own to the servers, and replace it";

/// All of them, in the order of the documentation.
pub const PARAMETERS: &[Parameter] = &[
    yes("host", "PGHOST", "a name, an address, or the folder of a socket; several with commas between"),
    yes("hostaddr", "PGHOSTADDR", "numeric addresses, as many as hosts"),
    yes("port", "PGPORT", "one for all hosts, or as many as hosts"),
    yes("dbname", "PGDATABASE", "a name; the user's unless given"),
    yes("user", "PGUSER", "a role; the account that runs the program unless given"),
    yes("password", "PGPASSWORD", "a text"),
    yes("passfile", "PGPASSFILE", "a file; ~/.pgpass unless given, if it is there"),
    yes(
        "service",
        "PGSERVICE",
        "a name in the service file, PGSERVICEFILE or ~/.pg_service.conf, then PGSYSCONFDIR's",
    ),
    yes("options", "PGOPTIONS", "command line options for the server's session"),
    yes("application_name", "PGAPPNAME", "a text, put behind what names input and replica"),
    own("fallback_application_name", "a text, as application_name where that is not given"),
    yes("client_encoding", "PGCLIENTENCODING", "UTF8 or auto, which both are UTF8"),
    yes(
        "connect_timeout",
        "PGCONNECT_TIMEOUT",
        "seconds for all of connecting, over all hosts; 10 unless given",
    ),
    own("keepalives", "1 or 0"),
    own("keepalives_idle", "seconds; 5 unless given"),
    own("keepalives_interval", "seconds; 2 unless given"),
    own("keepalives_count", "how often; 3 unless given"),
    own("tcp_user_timeout", "milliseconds; 15000 unless given, 0 for the system's"),
    yes(
        "target_session_attrs",
        "PGTARGETSESSIONATTRS",
        "any, read-write, primary; read-write for several hosts unless given",
    ),
    yes("load_balance_hosts", "PGLOADBALANCEHOSTS", "disable, random"),
    yes("sslmode", "PGSSLMODE", "disable, prefer, require, verify-ca, verify-full; prefer unless given"),
    yes(
        "sslnegotiation",
        "PGSSLNEGOTIATION",
        "postgres; direct (PostgreSQL 17) with sslmode=require or stronger",
    ),
    yes("sslrootcert", "PGSSLROOTCERT", "a file of certificates in PEM; system, with sslmode=verify-full"),
    yes(
        "sslcert",
        "PGSSLCERT",
        "a file in PEM: the client's certificate, and those between it and its authority",
    ),
    yes("sslkey", "PGSSLKEY", "a file in PEM without a password, not readable by others"),
    yes("sslcertmode", "PGSSLCERTMODE", "disable, allow"),
    yes("sslsni", "PGSSLSNI", "1 or 0"),
    yes(
        "ssl_min_protocol_version",
        "PGSSLMINPROTOCOLVERSION",
        "TLSv1.2 (also where an older one is given), TLSv1.3",
    ),
    yes("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", "TLSv1.2, TLSv1.3"),
    yes("channel_binding", "PGCHANNELBINDING", "disable, prefer, require"),
    own("sslcompression", "0"),
    yes("gssencmode", "PGGSSENCMODE", "disable, prefer: there is none"),
    no(
        "sslpassword",
        None,
        "keys with a password are not read; write the key without one (openssl pkey), readable by its owner alone",
    ),
    no("sslcrl", Some("PGSSLCRL"), REVOCATION),
    no("sslcrldir", Some("PGSSLCRLDIR"), REVOCATION),
    no(
        "requirepeer",
        Some("PGREQUIREPEER"),
        "who runs the server behind a socket is not asked; protect the socket's folder",
    ),
    no(
        "require_auth",
        Some("PGREQUIREAUTH"),
        "use channel_binding=require, which goes only with scram-sha-256",
    ),
    no("requiressl", Some("PGREQUIRESSL"), "use sslmode=require"),
    no("krbsrvname", Some("PGKRBSRVNAME"), KERBEROS),
    no("gsslib", Some("PGGSSLIB"), KERBEROS),
    no("gssdelegation", Some("PGGSSDELEGATION"), KERBEROS),
    no("replication", None, "this program reads no replication stream; leave it out"),
    no("servicefile", None, "set the variable PGSERVICEFILE"),
    no("min_protocol_version", Some("PGMINPROTOCOLVERSION"), "protocol 3.0 is spoken; leave it out"),
    no("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), "protocol 3.0 is spoken; leave it out"),
    no("scram_client_key", None, "use password"),
    no("scram_server_key", None, "use password"),
    no("oauth_issuer", None, "OAuth is not supported; use a password or a client certificate"),
    no("oauth_client_id", None, "OAuth is not supported; use a password or a client certificate"),
    no("oauth_client_secret", None, "OAuth is not supported; use a password or a client certificate"),
    no("oauth_scope", None, "OAuth is not supported; use a password or a client certificate"),
];

/// The parameter called `name`, which is shown only where it is like one that exists: it may be a part of a password.
pub(crate) fn named(name: &str) -> Result<&'static Parameter, ConnectionStringError> {
    if let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) {
        if let Support::No(remedy) = parameter.support {
            let reason = format!("has {}, which is not supported: {remedy}", parameter.name);
            return Err(ConnectionStringError::of(parameter.name, reason));
        }
        return Ok(parameter);
    }
    if name == "keepalives_retries" {
        return Err(ConnectionStringError::new("has keepalives_retries; libpq calls it keepalives_count"));
    }
    let supported = PARAMETERS.iter().filter(|parameter| matches!(parameter.support, Support::Yes(_)));
    let nearest = supported
        .map(|parameter| (strsim::jaro_winkler(parameter.name, name), parameter.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((likeness, nearest)) if likeness > 0.85 => format!("; did you mean {nearest}?"),
        _ => "; a value with spaces needs quotes ('…'), and in a URL the characters @:/?&= in a value need their %xx form"
            .to_owned(),
    };
    Err(ConnectionStringError::new(format!("has a parameter that does not exist{hint}")))
}
