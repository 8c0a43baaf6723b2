//! What the execution context says.

use std::time::Duration;

use dapper_core::ProcessConfig;
use jiff::SignedDuration;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use crate::WebhookError;
use crate::limits::Rate;
use crate::signature::Secrets;

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

/// Key of the execution context: signs what is sent, as the Standard Webhooks specification has it: `whsec_` and base64,
/// 24 to 64 bytes. While one is replaced, both, separated by a space: each signs.
pub const SECRET: &str = "secret";

/// Key of the execution context: how many calls there may be at the same time; as many as events are handled unless set.
pub const CONCURRENCY: &str = "concurrency";

/// Key of the execution context: how many calls there may be in a time, such as `10/s`, `100/m` or `1000/h`; any number
/// unless set. They are spread evenly.
pub const RATE: &str = "rate";

/// Key of the execution context: how many calls may come at once after a time with fewer than [`RATE`] allows; 1 unless
/// set.
pub const BURST: &str = "burst";

/// Key of the execution context: how many events may go in one call, as a JSON array. Each goes alone, as an object, unless
/// set.
pub const BATCH: &str = "batch";

/// Key of the execution context: how long the first event of a batch waits for others; [`DEFAULT_LINGER`] unless set,
/// [`MAX_LINGER`] at most.
pub const LINGER: &str = "linger";

/// Beginning of keys of the execution context: `header.x-api-key` is sent as the header `x-api-key`. Values are secrets.
pub const HEADER: &str = "header.";

/// How long a call may take unless [`TIMEOUT`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest [`TIMEOUT`].
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long the first event of a batch waits unless [`LINGER`] says otherwise.
pub const DEFAULT_LINGER: Duration = Duration::from_millis(10);

/// The longest [`LINGER`].
pub const MAX_LINGER: Duration = Duration::from_secs(1);

/// The largest [`BATCH`].
pub const MAX_BATCH: usize = 1000;

/// The longest time between two calls that [`RATE`] may ask for.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// All keys of the execution context; the last stands for all that begin so.
pub const KEYS: [&str; 10] =
    [URL, METHOD, TIMEOUT, SECRET, CONCURRENCY, RATE, BURST, BATCH, LINGER, "header.NAME"];

/// What the process sets itself, or the connection needs as it is.
const RESERVED: [&str; 13] = [
    "connection",
    "content-length",
    "content-type",
    "dapper-attempt",
    "dapper-token",
    "host",
    "idempotency-key",
    "te",
    "traceparent",
    "transfer-encoding",
    crate::signature::ID,
    crate::signature::TIMESTAMP,
    crate::signature::SIGNATURE,
];

pub(crate) const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];

/// The execution context, understood.
pub(crate) struct Settings {
    pub(crate) url: Url,
    pub(crate) method: Method,
    pub(crate) timeout: Duration,
    pub(crate) secrets: Option<Secrets>,
    pub(crate) headers: HeaderMap,
    pub(crate) concurrency: Option<usize>,
    pub(crate) rate: Option<Rate>,
    pub(crate) batch: Option<Batch>,
}

/// How events are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) most: usize,
    pub(crate) linger: Duration,
}

impl Settings {
    pub(crate) fn read(config: &ProcessConfig) -> Result<Self, WebhookError> {
        let context = &config.execution_context;
        let is_known = |key: &str| KEYS.contains(&key) || key.starts_with(HEADER);
        if let Some(key) = context.keys().find(|key| !is_known(key)) {
            return Err(WebhookError::UnknownKey { key: key.clone(), nearest: nearest_key(key) });
        }
        let text = |key: &str| context.get(key).map(|text| text.trim());
        let url = read_url(text(URL).unwrap_or_default())?;
        let secrets = text(SECRET).map(Secrets::read).transpose();
        Ok(Self {
            headers: read_headers(context.iter(), &url)?,
            url,
            method: text(METHOD).map_or(Ok(Method::POST), read_method)?,
            timeout: text(TIMEOUT).map_or(Ok(DEFAULT_TIMEOUT), read_timeout)?,
            secrets: secrets.map_err(|reason| WebhookError::value(SECRET, reason))?,
            concurrency: text(CONCURRENCY).map(|text| read_count(CONCURRENCY, text, 100_000)).transpose()?,
            rate: read_rate(text(RATE), text(BURST))?,
            batch: read_batch(text(BATCH), text(LINGER))?,
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

/// The headers of the file, marked as secrets.
fn read_headers<'a>(
    context: impl Iterator<Item = (&'a String, &'a String)>,
    url: &Url,
) -> Result<HeaderMap, WebhookError> {
    let mut headers = HeaderMap::new();
    for (key, text) in context {
        let Some(name) = key.strip_prefix(HEADER) else { continue };
        let wrong = |reason: &str| Err(WebhookError::value(key, reason));
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            return wrong("has no name that a header can have");
        };
        if RESERVED.contains(&name.as_str()) {
            return wrong("is a header that the process sets itself");
        }
        if name == AUTHORIZATION && (url.password().is_some() || !url.username().is_empty()) {
            return wrong("would replace the user and password of \"url\"; keep one of them");
        }
        let Ok(mut value) = HeaderValue::from_str(text.trim()) else {
            return wrong("holds something that no header can carry");
        };
        value.set_sensitive(true);
        if headers.insert(name, value).is_some() {
            return wrong("is there twice, in different letters");
        }
    }
    Ok(headers)
}

fn read_count(key: &'static str, text: &str, most: usize) -> Result<usize, WebhookError> {
    match text.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => Err(WebhookError::value(key, format!("is {text:?}; it must be a number from 1 to {most}"))),
    }
}

fn read_rate(rate: Option<&str>, burst: Option<&str>) -> Result<Option<Rate>, WebhookError> {
    let Some(text) = rate else {
        return match burst {
            Some(_) => Err(WebhookError::value(BURST, "means nothing without \"rate\"")),
            None => Ok(None),
        };
    };
    let wrong = || {
        let expected = "write it like 10/s, 100/m or 1000/h; one call in a minute is the lowest";
        WebhookError::value(RATE, format!("is {text:?}; {expected}"))
    };
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let unit_s = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let count: u32 = count.trim().parse().map_err(|_| wrong())?;
    let interval = Duration::from_secs(unit_s).checked_div(count).ok_or_else(wrong)?;
    if interval > MAX_INTERVAL {
        return Err(wrong());
    }
    let burst = burst.map(|text| read_count(BURST, text, 100_000)).transpose()?.unwrap_or(1);
    Ok(Some(Rate { interval, burst: u32::try_from(burst).unwrap_or(u32::MAX) }))
}

fn read_batch(most: Option<&str>, linger: Option<&str>) -> Result<Option<Batch>, WebhookError> {
    let Some(most) = most else {
        return match linger {
            Some(_) => Err(WebhookError::value(LINGER, "means nothing without \"batch\"")),
            None => Ok(None),
        };
    };
    let most = read_count(BATCH, most, MAX_BATCH)?;
    let Some(text) = linger else { return Ok(Some(Batch { most, linger: DEFAULT_LINGER })) };
    let parsed = text.parse::<SignedDuration>().ok().and_then(|linger| Duration::try_from(linger).ok());
    match parsed {
        Some(linger) if linger <= MAX_LINGER => Ok(Some(Batch { most, linger })),
        _ => {
            let expected = "it must be a duration from 0s to 1s, such as 10ms";
            Err(WebhookError::value(LINGER, format!("is {text:?}; {expected}")))
        }
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
                r#"process "hook": unknown key "ulr"; did you mean "url"? Known are url, method, timeout, secret, concurrency, rate, burst, batch, linger, header.NAME"#
            ]],
        );
        check(
            &[(URL, "http://h"), ("METHOD", "PUT")],
            expect![[
                r#"process "hook": unknown key "METHOD"; did you mean "method"? Known are url, method, timeout, secret, concurrency, rate, burst, batch, linger, header.NAME"#
            ]],
        );
        check(
            &[(URL, "http://h"), ("time_out", "1s")],
            expect![[
                r#"process "hook": unknown key "time_out"; did you mean "timeout"? Known are url, method, timeout, secret, concurrency, rate, burst, batch, linger, header.NAME"#
            ]],
        );
    }

    const SIGNED_BY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn limits_batches_secrets_and_headers() {
        let settings = read(&[
            (URL, "http://h"),
            (SECRET, SIGNED_BY),
            (CONCURRENCY, "2"),
            (RATE, "100/m"),
            (BURST, "5"),
            (BATCH, "50"),
            ("header.X-Api-Key", " canary "),
        ]);
        let settings = settings.ok().unwrap();
        assert!(settings.secrets.is_some());
        assert_eq!(settings.concurrency, Some(2));
        assert_eq!(settings.rate, Some(Rate { interval: Duration::from_millis(600), burst: 5 }));
        assert_eq!(settings.batch, Some(Batch { most: 50, linger: DEFAULT_LINGER }));
        assert_eq!(settings.headers["x-api-key"], "canary");
        assert!(!format!("{:?}", settings.headers).contains("canary"));
    }

    /// The message for one wrong key.
    fn wrong(key: &str, value: &str) -> String {
        let error = read(&[(URL, "http://u:p@h"), (key, value)]).map(|_| ()).unwrap_err();
        assert_eq!(error.key(), Some(key));
        let debug = format!("{error:?}");
        let text = format!("{debug}{}", error.into_config_error("hook".into()));
        assert!(!text.contains("canary"), "{text}");
        text
    }

    #[test]
    fn wrong_limits_are_named() {
        for text in ["0", "-1", "x", "100001", ""] {
            assert!(wrong(CONCURRENCY, text).contains("it must be a number from 1 to 100000"), "{text}");
            assert!(wrong(BATCH, text).contains("it must be a number from 1 to 1000"), "{text}");
        }
        for text in ["", "10", "10/", "/s", "0/s", "10/d", "59/h", "-1/s", "1.5/s"] {
            assert!(wrong(RATE, text).contains("write it like 10/s, 100/m or 1000/h"), "{text}");
        }
        assert_eq!(read_rate(Some("60/h"), None).ok().flatten().unwrap().interval, MAX_INTERVAL);
        assert!(wrong(BURST, "3").contains("means nothing without \"rate\""));
        assert!(wrong(LINGER, "3ms").contains("means nothing without \"batch\""));
        for text in ["", "2s", "-1ms", "x"] {
            let error = read(&[(URL, "http://h"), (BATCH, "2"), (LINGER, text)]).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("from 0s to 1s"), "{error}");
        }
    }

    #[test]
    fn wrong_secrets_and_headers_are_named_and_not_shown() {
        assert!(wrong(SECRET, "whsec_canary!").contains("holds, as number 1, something that is not"));
        assert!(wrong("header.", "canary").contains("has no name that a header can have"));
        assert!(wrong("header.a b", "canary").contains("has no name that a header can have"));
        for name in RESERVED {
            let key = format!("header.{}", name.to_uppercase());
            assert!(wrong(&key, "canary").contains("is a header that the process sets itself"), "{key}");
        }
        assert!(wrong("header.authorization", "canary").contains("would replace the user and password"));
        assert!(wrong("header.x", "canary\r\ny: 1").contains("holds something that no header can carry"));
        let twice = [(URL, "http://h"), ("header.X", "canary"), ("header.x", "canary")];
        assert!(read(&twice).map(|_| ()).unwrap_err().to_string().contains("is there twice"));
    }
}
