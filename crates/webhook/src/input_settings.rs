//! What the configuration of a webhook input says.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use dapper_core::{InputConfig, InputError, Operation};
use jiff::SignedDuration;
use ring::hmac::{self, HMAC_SHA256, Key};
use ring::rand::SystemRandom;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::signature::Secrets;

/// Key of the input: the path that requests go to, such as `/orders`. Must be set.
const PATH: &str = "connection_string";

/// Key of the input: where it listens, [`DEFAULT_LISTEN`] unless set.
pub const LISTEN: &str = "listen";

/// Key of the input: what requests must say as `authorization: Bearer …`. Either this or [`INPUT_SECRET`] must be set.
pub const TOKEN: &str = "token";

/// Key of the input: what requests must be signed with, as the Standard Webhooks specification has it; several, separated by
/// spaces, while one is replaced.
pub const INPUT_SECRET: &str = "secret";

/// Key of the input: how large a body may be, in bytes; [`DEFAULT_MAX_BODY_BYTES`] unless set.
pub const MAX_BODY_BYTES: &str = "max_body_bytes";

/// Key of the input: how many requests may be under way; [`DEFAULT_MAX_WAITING`] unless set.
pub const MAX_WAITING: &str = "max_waiting";

/// Key of the input: how long a request waits until its event is handled; [`DEFAULT_INPUT_TIMEOUT`] unless set.
pub const INPUT_TIMEOUT: &str = "timeout";

/// Where an input listens unless [`LISTEN`] says otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
/// How large a body may be unless [`MAX_BODY_BYTES`] says otherwise.
pub const DEFAULT_MAX_BODY_BYTES: usize = 1 << 20;
/// How many requests may be under way unless [`MAX_WAITING`] says otherwise.
pub const DEFAULT_MAX_WAITING: usize = 64;
/// How long a request waits unless [`INPUT_TIMEOUT`] says otherwise.
pub const DEFAULT_INPUT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest [`INPUT_TIMEOUT`].
pub const MAX_INPUT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// The largest [`MAX_BODY_BYTES`].
const MOST_BODY_BYTES: usize = 64 << 20;
/// The largest [`MAX_WAITING`].
const MOST_WAITING: usize = 10_000;

/// All keys of a webhook input besides those of every input.
pub const INPUT_KEYS: [&str; 7] =
    [PATH, LISTEN, TOKEN, INPUT_SECRET, MAX_BODY_BYTES, MAX_WAITING, INPUT_TIMEOUT];

/// The configuration, understood.
pub(crate) struct InputSettings {
    pub(crate) path: String,
    pub(crate) listen: SocketAddr,
    pub(crate) guard: Guard,
    pub(crate) operations: Vec<Operation>,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_waiting: usize,
    pub(crate) timeout: Duration,
}

/// How it is known that a request may come in.
pub(crate) enum Guard {
    Token(Box<Token>),
    Secrets(Secrets),
}

/// A token that can be compared without telling how much of it was right.
pub(crate) struct Token {
    key: Key,
    tag: hmac::Tag,
}

impl Token {
    fn new(token: &str) -> Option<Self> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new()).ok()?;
        let tag = hmac::sign(&key, token.as_bytes());
        Some(Self { key, tag })
    }

    pub(crate) fn is(&self, given: &str) -> bool {
        hmac::verify(&self.key, given.as_bytes(), self.tag.as_ref()).is_ok()
    }
}

impl InputSettings {
    pub(crate) fn read(config: &InputConfig) -> Result<Self, InputError> {
        let refuse = |key: &str, reason: String| InputError::Config {
            input: config.name.clone(),
            key: Some(key.to_owned()),
            reason,
        };
        if let Some(key) = config.options.keys().find(|key| !INPUT_KEYS.contains(&key.as_str())) {
            return Err(refuse(key, format!("unknown key {key:?}; known are {}", INPUT_KEYS.join(", "))));
        }
        let text = |key: &'static str| match config.options.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(refuse(key, format!("{key:?} must be text in quotes"))),
        };
        let count = |key: &'static str, default: usize, most: usize| match config.options.get(key) {
            None => Ok(default),
            Some(value) => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                let wrong = || refuse(key, format!("{key:?} must be a whole number from 1 to {most}"));
                count.filter(|count| (1..=most).contains(count)).ok_or_else(wrong)
            }
        };
        let path = config.connection_string.expose_secret().trim();
        if !path.starts_with('/') || path.contains(['?', '#', ' ']) || !path.is_ascii() {
            let reason = format!("{PATH:?} must be the path that requests go to, such as \"/orders\"");
            return Err(refuse(PATH, reason));
        }
        let listen = text(LISTEN)?.unwrap_or(DEFAULT_LISTEN);
        let wrong =
            |_| refuse(LISTEN, format!("{LISTEN:?} is {listen:?}; write an address like 0.0.0.0:8080"));
        let listen: SocketAddr = listen.parse().map_err(wrong)?;
        let guard =
            read_guard(text(TOKEN)?, text(INPUT_SECRET)?).map_err(|(key, reason)| refuse(key, reason))?;
        Ok(Self {
            path: path.to_owned(),
            listen,
            guard,
            operations: read_operations(config.operations.as_deref())
                .map_err(|reason| refuse("operations", reason))?,
            max_body_bytes: count(MAX_BODY_BYTES, DEFAULT_MAX_BODY_BYTES, MOST_BODY_BYTES)?,
            max_waiting: count(MAX_WAITING, DEFAULT_MAX_WAITING, MOST_WAITING)?,
            timeout: read_timeout(text(INPUT_TIMEOUT)?).map_err(|reason| refuse(INPUT_TIMEOUT, reason))?,
        })
    }
}

/// The way in; or the key at fault and why.
fn read_guard(token: Option<&str>, secret: Option<&str>) -> Result<Guard, (&'static str, String)> {
    match (token, secret) {
        (None, None) => {
            Err((TOKEN, "set \"token\" or \"secret\": without one anybody could send events".into()))
        }
        (Some(_), Some(_)) => Err((TOKEN, "set either \"token\" or \"secret\", not both".into())),
        (None, Some(secret)) => match Secrets::read(secret) {
            Ok(secrets) => Ok(Guard::Secrets(secrets)),
            Err(reason) => Err((INPUT_SECRET, format!("{INPUT_SECRET:?} {reason}"))),
        },
        (Some(token), None) if token.len() < 16 || token.contains(char::is_whitespace) => {
            Err((TOKEN, format!("{TOKEN:?} must have 16 characters or more, and no blanks")))
        }
        (Some(token), None) => match Token::new(token) {
            Some(token) => Ok(Guard::Token(Box::new(token))),
            None => Err((TOKEN, "the system has no random numbers".into())),
        },
    }
}

fn read_operations(operations: Option<&[Operation]>) -> Result<Vec<Operation>, String> {
    let possible = [Operation::Create, Operation::Update, Operation::Delete];
    let operations = operations.unwrap_or(&possible);
    match operations.iter().find(|operation| !possible.contains(operation)) {
        Some(operation) => {
            Err(format!("a webhook has no operation {operation:?}", operation = operation.as_str()))
        }
        None if operations.is_empty() => Err("\"operations\" is empty, so that nothing would come in".into()),
        None => Ok(operations.to_vec()),
    }
}

fn read_timeout(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(DEFAULT_INPUT_TIMEOUT) };
    let parsed = text.parse::<SignedDuration>().ok().and_then(|timeout| Duration::try_from(timeout).ok());
    parsed.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_INPUT_TIMEOUT).ok_or_else(|| {
        let most = MAX_INPUT_TIMEOUT.as_secs();
        format!(
            "{INPUT_TIMEOUT:?} is {text:?}; it must be a duration above 0 and at most {most} s, such as 30s"
        )
    })
}

impl fmt::Debug for InputSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputSettings")
            .field("path", &self.path)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn read(path: &str, options: &Value) -> Result<InputSettings, InputError> {
        let config = InputConfig {
            name: "orders".into(),
            kind: "webhook".into(),
            connection_string: path.to_owned().into(),
            operations: None,
            options: options.as_object().unwrap().clone(),
        };
        InputSettings::read(&config)
    }

    #[test]
    fn defaults() {
        let settings = read("/orders", &serde_json::json!({ "token": GOOD })).unwrap();
        assert_eq!((settings.path.as_str(), settings.listen), ("/orders", DEFAULT_LISTEN.parse().unwrap()));
        assert_eq!((settings.max_waiting, settings.timeout), (DEFAULT_MAX_WAITING, DEFAULT_INPUT_TIMEOUT));
        assert_eq!(settings.operations.len(), 3);
    }

    #[test]
    fn a_token_is_known_whole() {
        let Guard::Token(token) = read_guard(Some(GOOD), None).unwrap_or_else(|_| panic!("it is good"))
        else {
            panic!("a token makes a guard of tokens");
        };
        assert!(token.is(GOOD));
        for other in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!token.is(other), "{other}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_key_and_no_secret() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let good = r#""token":"canary-0123456789""#;
        for (path, options, key, reason) in [
            ("orders", format!("{{{good}}}"), "connection_string", "must be the path that requests go to"),
            ("/a?b", format!("{{{good}}}"), "connection_string", "must be the path that requests go to"),
            ("/a", "{}".into(), "token", "without one anybody could send events"),
            ("/a", format!(r#"{{{good},"secret":"x"}}"#), "token", "not both"),
            ("/a", r#"{"token":"canary"}"#.into(), "token", "must have 16 characters or more"),
            ("/a", r#"{"secret":"whsec_canary"}"#.into(), "secret", "holds, as number 1"),
            ("/a", format!(r#"{{{good},"listen":"8080"}}"#), "listen", "write an address like 0.0.0.0:8080"),
            ("/a", format!(r#"{{{good},"max_waiting":0}}"#), "max_waiting", "from 1 to 10000"),
            ("/a", format!(r#"{{{good},"max_body_bytes":"1"}}"#), "max_body_bytes", "must be a whole number"),
            ("/a", format!(r#"{{{good},"timeout":"1h"}}"#), "timeout", "at most 600 s"),
            ("/a", format!(r#"{{{good},"path":"x"}}"#), "path", "unknown key \"path\""),
        ] {
            let error = read(path, &json(&options)).unwrap_err();
            let text = format!("{error}{error:?}");
            assert!(text.contains(reason) && !text.contains("canary"), "{text}");
            assert!(
                matches!(&error, InputError::Config { key: Some(found), .. } if found == key),
                "{error:?}"
            );
        }
    }
}
