//! What the execution context says.

use std::time::Duration;

use dapper_core::ProcessConfig;
use jiff::SignedDuration;
use reqwest::{Method, Url};

use crate::WebhookError;

/// Key of the execution context: where to send to, `http` or `https`. Must be set.
///
/// User info in it (`https://user:password@example.com`) is sent as basic authentication.
pub const URL: &str = "url";

/// Key of the execution context: the HTTP method, `POST` unless set; `PUT`, `PATCH`, `DELETE` and `GET` are the others.
pub const METHOD: &str = "method";

/// Key of the execution context: how long one call may take from start to end, such as `10s` or `1m 30s`.
///
/// [`DEFAULT_TIMEOUT`] unless set, [`MAX_TIMEOUT`] at most.
pub const TIMEOUT: &str = "timeout";

/// How long a call may take unless [`TIMEOUT`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest [`TIMEOUT`].
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

pub(crate) const KEYS: [&str; 3] = [URL, METHOD, TIMEOUT];

pub(crate) const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];

/// The execution context, understood.
pub(crate) struct Settings {
    pub(crate) url: Url,
    pub(crate) method: Method,
    pub(crate) timeout: Duration,
}

impl Settings {
    pub(crate) fn read(config: &ProcessConfig) -> Result<Self, WebhookError> {
        let context = &config.execution_context;
        if let Some(key) = context.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(WebhookError::UnknownKey { key: key.clone(), nearest: nearest_key(key) });
        }
        Ok(Self {
            url: read_url(context.get(URL).map_or("", |url| url.trim()))?,
            method: context.get(METHOD).map_or(Ok(Method::POST), |method| read_method(method))?,
            timeout: context.get(TIMEOUT).map_or(Ok(DEFAULT_TIMEOUT), |timeout| read_timeout(timeout))?,
        })
    }
}

fn nearest_key(key: &str) -> &'static str {
    let key = key.to_lowercase();
    KEYS.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key)).unwrap_or(URL)
}

fn read_url(text: &str) -> Result<Url, WebhookError> {
    if text.is_empty() {
        return Err(WebhookError::MissingUrl);
    }
    let url = Url::parse(text).map_err(|source| WebhookError::MalformedUrl { source: source.into() })?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(WebhookError::UnsupportedScheme { scheme: scheme.to_owned() }),
    }
}

fn read_method(text: &str) -> Result<Method, WebhookError> {
    let unsupported = || WebhookError::UnsupportedMethod { method: text.to_owned() };
    let method = METHODS.iter().find(|method| method.eq_ignore_ascii_case(text)).ok_or_else(unsupported)?;
    Method::from_bytes(method.as_bytes()).map_err(|_| unsupported())
}

fn read_timeout(text: &str) -> Result<Duration, WebhookError> {
    let duration: SignedDuration = text.parse().map_err(|source: jiff::Error| {
        WebhookError::MalformedTimeout { text: text.to_owned(), source: source.into() }
    })?;
    match Duration::try_from(duration) {
        Ok(timeout) if !timeout.is_zero() && timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => Err(WebhookError::TimeoutOutOfRange { text: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn read(context: &[(&str, &str)]) -> Result<Settings, WebhookError> {
        let execution_context = context.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        Settings::read(&ProcessConfig { name: "hook".into(), kind: "webhook".into(), execution_context })
    }

    #[allow(clippy::needless_pass_by_value)] // `expect![[…]]` is written in place.
    fn check(context: &[(&str, &str)], expected: Expect) {
        let error = read(context).map(|_| ()).unwrap_err().into_config_error("hook".into());
        expected.assert_eq(&error.to_string());
    }

    #[test]
    fn defaults() {
        let settings = read(&[(URL, " https://example.com/hook ")]).ok().unwrap();
        assert_eq!(settings.url.as_str(), "https://example.com/hook");
        assert_eq!((settings.method, settings.timeout), (Method::POST, DEFAULT_TIMEOUT));
    }

    #[test]
    fn everything_set() {
        for (text, timeout) in
            [("1ns", 1e-9), ("250 ms", 0.25), ("1m 30s", 90.0), ("PT1H", 3600.0), ("1 hour", 3600.0)]
        {
            let settings = read(&[(URL, "http://h"), (METHOD, "put"), (TIMEOUT, text)]).ok().unwrap();
            assert_eq!(
                (settings.method, settings.timeout),
                (Method::PUT, Duration::from_secs_f64(timeout)),
                "{text}"
            );
        }
    }

    #[test]
    fn no_url() {
        assert!(matches!(read(&[]), Err(WebhookError::MissingUrl)));
        assert!(matches!(read(&[(URL, " ")]), Err(WebhookError::MissingUrl)));
        check(
            &[],
            expect![[
                r#"process "hook": "url" is missing or empty; set it to the endpoint, such as https://example.com/hook"#
            ]],
        );
    }

    #[test]
    fn a_bad_url_is_not_shown() {
        check(
            &[(URL, "canary")],
            expect![[
                r#"process "hook": "url" is not a URL; write it like https://example.com/hook: relative URL without a base"#
            ]],
        );
        check(
            &[(URL, "http://user:canary@")],
            expect![[
                r#"process "hook": "url" is not a URL; write it like https://example.com/hook: empty host"#
            ]],
        );
        check(
            &[(URL, "http://h:canary")],
            expect![[
                r#"process "hook": "url" is not a URL; write it like https://example.com/hook: invalid port number"#
            ]],
        );
        check(
            &[(URL, "ftp://user:canary@h/?canary")],
            expect![[r#"process "hook": "url" has the scheme "ftp"; use http or https"#]],
        );
    }

    #[test]
    fn a_bad_method() {
        check(
            &[(URL, "http://h"), (METHOD, "PSOT")],
            expect![[r#"process "hook": "method" is "PSOT"; use one of POST, PUT, PATCH, DELETE, GET"#]],
        );
        check(
            &[(URL, "http://h"), (METHOD, "")],
            expect![[r#"process "hook": "method" is ""; use one of POST, PUT, PATCH, DELETE, GET"#]],
        );
    }

    #[test]
    fn a_bad_timeout() {
        check(
            &[(URL, "http://h"), (TIMEOUT, "ten")],
            expect![[
                r#"process "hook": "timeout" is "ten", which is not a duration; write it like 10s or 1m 30s: failed to parse input in the "friendly" duration format: expected duration to start with a unit value (a decimal integer) after an optional sign, but no integer was found"#
            ]],
        );
        check(
            &[(URL, "http://h"), (TIMEOUT, "0s")],
            expect![[r#"process "hook": "timeout" is "0s"; it must be above 0 and at most 3600 s"#]],
        );
        check(
            &[(URL, "http://h"), (TIMEOUT, "-1s")],
            expect![[r#"process "hook": "timeout" is "-1s"; it must be above 0 and at most 3600 s"#]],
        );
        check(
            &[(URL, "http://h"), (TIMEOUT, "1h 1ns")],
            expect![[r#"process "hook": "timeout" is "1h 1ns"; it must be above 0 and at most 3600 s"#]],
        );
    }

    #[test]
    fn an_unknown_key() {
        check(
            &[("ulr", "http://h")],
            expect![[
                r#"process "hook": unknown key "ulr"; did you mean "url"? Known are url, method, timeout"#
            ]],
        );
        check(
            &[(URL, "http://h"), ("METHOD", "PUT")],
            expect![[
                r#"process "hook": unknown key "METHOD"; did you mean "method"? Known are url, method, timeout"#
            ]],
        );
        check(
            &[(URL, "http://h"), ("time_out", "1s")],
            expect![[
                r#"process "hook": unknown key "time_out"; did you mean "timeout"? Known are url, method, timeout"#
            ]],
        );
    }
}
