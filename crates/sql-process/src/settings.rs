//! What the execution context says.

use std::time::Duration;

use dapper_connect::ConnectionString;
use dapper_core::ProcessConfig;
use dapper_inbox::{Inbox, InboxOptions, NameError, SchemaName};
use jiff::SignedDuration;

use crate::error::SqlProcessError;
use crate::template::Template;

/// Key of the execution context: the database, a URL or a key=value DSN. Must be set.
pub const CONNECTION_STRING: &str = "connection_string";

/// Key of the execution context: the statement. Must be set.
pub const STATEMENT: &str = "statement";

/// Key of the execution context: `true` unless set to `false`. Without the inbox an event that is repeated takes effect again.
pub const INBOX: &str = "inbox";

/// Key of the execution context: the consumer's name in the inbox, the process's name unless set. Each event takes effect once
/// for each consumer. Two pipelines that write into one database need different ones.
pub const CONSUMER: &str = "consumer";

/// Key of the execution context: the schema of the inbox, `dapper_inbox` unless set.
pub const INBOX_SCHEMA: &str = "inbox_schema";

/// Key of the execution context: how long handling one event may take in all, such as `10s` or `1m 30s`.
///
/// [`DEFAULT_TIMEOUT`] unless set, [`MAX_TIMEOUT`] at most.
pub const TIMEOUT: &str = "timeout";

/// Key of the execution context: how long the server may work on a statement, as [`TIMEOUT`] unless set. The server ends a
/// transaction that stays idle for as long, too.
pub const STATEMENT_TIMEOUT: &str = "statement_timeout";

/// How long handling an event may take unless [`TIMEOUT`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest [`TIMEOUT`].
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// All keys of the execution context.
pub const KEYS: [&str; 7] =
    [CONNECTION_STRING, STATEMENT, INBOX, CONSUMER, INBOX_SCHEMA, TIMEOUT, STATEMENT_TIMEOUT];

/// The execution context, understood.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) connection: ConnectionString,
    pub(crate) template: Template,
    pub(crate) inbox: Option<Inbox>,
    pub(crate) timeout: Duration,
    pub(crate) statement_timeout: Duration,
}

impl Settings {
    pub(crate) fn read(config: &ProcessConfig) -> Result<Self, SqlProcessError> {
        let context = &config.execution_context;
        if let Some(key) = context.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(SqlProcessError::UnknownKey { key: key.clone(), nearest: nearest_key(key) });
        }
        let text = |key: &str| context.get(key).map(String::as_str);
        let address = text(CONNECTION_STRING).unwrap_or_default().to_owned().into();
        let timeout = read_timeout(TIMEOUT, text(TIMEOUT))?.unwrap_or(DEFAULT_TIMEOUT);
        Ok(Self {
            connection: ConnectionString::parse(&address)
                .map_err(|error| SqlProcessError::ConnectionString { reason: error.reason })?,
            template: Template::read(text(STATEMENT).unwrap_or_default())?,
            inbox: read_inbox(&config.name, text)?,
            timeout,
            statement_timeout: read_timeout(STATEMENT_TIMEOUT, text(STATEMENT_TIMEOUT))?.unwrap_or(timeout),
        })
    }
}

fn nearest_key(key: &str) -> &'static str {
    let key = key.to_lowercase();
    KEYS.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key)).unwrap_or(STATEMENT)
}

fn read_inbox<'a>(
    process: &str,
    text: impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<Inbox>, SqlProcessError> {
    let refuse = |key, text: &str, expected: &str| SqlProcessError::Value {
        key,
        text: text.to_owned(),
        expected: expected.to_owned(),
    };
    match text(INBOX) {
        None | Some("true") => {}
        Some("false") => {
            return match [CONSUMER, INBOX_SCHEMA].into_iter().find_map(|key| Some((key, text(key)?))) {
                Some((key, value)) => Err(refuse(key, value, "it means nothing with inbox = \"false\"")),
                None => Ok(None),
            };
        }
        Some(other) => return Err(refuse(INBOX, other, "it must be \"true\" or \"false\"")),
    }
    let wrong = |key, error: NameError| refuse(key, &error.name, &error.to_string());
    let schema = text(INBOX_SCHEMA).map(SchemaName::new).transpose();
    let schema = schema.map_err(|error| wrong(INBOX_SCHEMA, error))?;
    let consumer = text(CONSUMER).unwrap_or(process).to_owned();
    let options = InboxOptions { consumer, schema, ..InboxOptions::default() };
    Inbox::new(options).map(Some).map_err(|error| wrong(CONSUMER, error))
}

fn read_timeout(key: &'static str, text: Option<&str>) -> Result<Option<Duration>, SqlProcessError> {
    let Some(text) = text else { return Ok(None) };
    let malformed = |_| SqlProcessError::Value {
        key,
        text: text.to_owned(),
        expected: "write a duration like 10s or 1m 30s".to_owned(),
    };
    let duration: SignedDuration = text.parse().map_err(malformed)?;
    match Duration::try_from(duration) {
        // The server counts in milliseconds, and takes 0 for no limit.
        Ok(timeout) if timeout >= Duration::from_millis(1) && timeout <= MAX_TIMEOUT => Ok(Some(timeout)),
        _ => Err(SqlProcessError::timeout_out_of_range(key, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const ADDRESS: (&str, &str) = (CONNECTION_STRING, "postgresql://app:canary@h/d");
    const DO: (&str, &str) = (STATEMENT, "SELECT :id");

    fn read(context: &[(&str, &str)]) -> Result<Settings, SqlProcessError> {
        let execution_context = context.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        Settings::read(&ProcessConfig { name: "count".into(), kind: "sql".into(), execution_context })
    }

    #[allow(clippy::needless_pass_by_value)] // `expect![[…]]` is written in place.
    fn check(context: &[(&str, &str)], expected: Expect) {
        let error = read(context).map(|_| ()).unwrap_err().into_config_error("count".into());
        let text = error.to_string();
        assert!(!text.contains("canary") && !format!("{error:?}").contains("canary"), "{error:?}");
        expected.assert_eq(&text);
    }

    #[test]
    fn defaults() {
        let settings = read(&[ADDRESS, DO]).unwrap();
        let inbox = settings.inbox.as_ref().unwrap();
        assert_eq!((inbox.consumer().as_str(), inbox.schema().as_str()), ("count", "dapper_inbox"));
        assert_eq!((settings.timeout, settings.statement_timeout), (DEFAULT_TIMEOUT, DEFAULT_TIMEOUT));
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn everything_set() {
        let settings =
            read(&[ADDRESS, DO, (INBOX, "true"), (CONSUMER, "a"), (INBOX_SCHEMA, "b"), (TIMEOUT, "1m")]);
        let settings = settings.unwrap();
        let inbox = settings.inbox.unwrap();
        assert_eq!((inbox.consumer().as_str(), inbox.schema().as_str()), ("a", "b"));
        assert_eq!(settings.statement_timeout, Duration::from_secs(60));
        assert!(read(&[ADDRESS, DO, (INBOX, "false")]).unwrap().inbox.is_none());
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        check(
            &[DO],
            expect![[
                r#"process "count": "connection_string" is empty; give a URL (postgresql://user@host/database) or key=value pairs (host=… dbname=…)"#
            ]],
        );
        check(
            &[(CONNECTION_STRING, "canary"), DO],
            expect![[
                r#"process "count": "connection_string" is no URL (postgresql://user:password@host:port/database), and as key=value pairs it has something without a "=""#
            ]],
        );
        check(&[ADDRESS], expect![[r#"process "count": "statement" is empty"#]]);
        check(
            &[ADDRESS, DO, ("statment", "x")],
            expect![[
                r#"process "count": unknown key "statment"; did you mean "statement"? Known are connection_string, statement, inbox, consumer, inbox_schema, timeout, statement_timeout"#
            ]],
        );
        check(
            &[ADDRESS, DO, (INBOX, "yes")],
            expect![[r#"process "count": "inbox" is "yes"; it must be "true" or "false""#]],
        );
        check(
            &[ADDRESS, DO, (INBOX, "false"), (CONSUMER, "x")],
            expect![[r#"process "count": "consumer" is "x"; it means nothing with inbox = "false""#]],
        );
        check(
            &[ADDRESS, DO, (INBOX_SCHEMA, "")],
            expect![[
                r#"process "count": "inbox_schema" is ""; "" can't be the name of a schema: it must have 1 to 63 bytes and no NUL"#
            ]],
        );
        check(
            &[ADDRESS, DO, (TIMEOUT, "ten")],
            expect![[r#"process "count": "timeout" is "ten"; write a duration like 10s or 1m 30s"#]],
        );
        check(
            &[ADDRESS, DO, (STATEMENT_TIMEOUT, "0s")],
            expect![[
                r#"process "count": "statement_timeout" is "0s"; it must be above 0 and at most 3600 s"#
            ]],
        );
    }
}
