//! Where spans go: the variables that the OpenTelemetry specification has for it.

use std::fmt;

use anyhow::{Context, bail};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const SERVICE: &str = "OTEL_SERVICE_NAME";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";

/// `Debug` shows no header and no address: both may hold secrets.
pub(super) struct Settings {
    pub(super) endpoint: Url,
    pub(super) headers: HeaderMap,
    pub(super) service: String,
    /// Whether an event has a span whose writer gave no trace.
    pub(super) samples_roots: bool,
}

impl Settings {
    /// `None` when no collector is named.
    pub(super) fn read(look_up: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        let get =
            |name: &str| look_up(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let (name, text) = match (get(TRACES_ENDPOINT), get(ENDPOINT)) {
            (Some(text), _) => (TRACES_ENDPOINT, text),
            (None, Some(text)) => (ENDPOINT, format!("{}/v1/traces", text.trim_end_matches('/'))),
            (None, None) => return Ok(None),
        };
        let endpoint = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint = endpoint.with_context(|| format!("{name} is no http:// or https:// address"))?;
        if get(PROTOCOL).is_some_and(|protocol| protocol != "http/json") {
            bail!(
                "{PROTOCOL} asks for something other than \"http/json\", which is what is spoken; leave it out"
            );
        }
        let samples_roots = match get(SAMPLER).as_deref() {
            None | Some("parentbased_always_on") => true,
            Some("parentbased_always_off") => false,
            Some(_) => bail!("{SAMPLER} must be \"parentbased_always_on\" or \"parentbased_always_off\""),
        };
        let service = get(SERVICE).unwrap_or_else(|| "dapper".to_owned());
        let headers = headers(&get(HEADERS).unwrap_or_default())?;
        Ok(Some(Self { endpoint, headers, service, samples_roots }))
    }
}

/// `name=value,name=value`.
fn headers(text: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let header = pair.split_once('=').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let mut value: HeaderValue = value.trim().parse().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let (name, value) = header.with_context(|| format!("{HEADERS} must be name=value,name=value"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("service", &self.service).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> anyhow::Result<Option<Settings>> {
        Settings::read(&|name| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_an_address_nothing_is_sent() {
        assert!(read(&[(SERVICE, "x"), (ENDPOINT, " ")]).unwrap().is_none());
    }

    #[test]
    fn the_variables_mean_what_the_specification_says() {
        let settings =
            read(&[(ENDPOINT, "http://c:4318/"), (HEADERS, "a=b, x-key = canary=")]).unwrap().unwrap();
        assert_eq!(settings.endpoint.as_str(), "http://c:4318/v1/traces");
        assert_eq!(settings.headers["x-key"], "canary=");
        assert_eq!((settings.service.as_str(), settings.samples_roots), ("dapper", true));
        assert!(!format!("{settings:?} {:?}", settings.headers).contains("canary"));
        let own = read(&[
            (ENDPOINT, "http://c"),
            (TRACES_ENDPOINT, "https://t/in"),
            (SAMPLER, "parentbased_always_off"),
        ]);
        let own = own.unwrap().unwrap();
        assert_eq!((own.endpoint.as_str(), own.samples_roots), ("https://t/in", false));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        let with = |name, value| read(&[(ENDPOINT, "http://c"), (name, value)]);
        for (name, value) in [
            (TRACES_ENDPOINT, "canary"),
            (TRACES_ENDPOINT, "ftp://canary"),
            (HEADERS, "canary"),
            (PROTOCOL, "canary"),
            (SAMPLER, "canary"),
        ] {
            let error = format!("{:#}", with(name, value).unwrap_err());
            assert!(error.contains(name) && !error.contains("canary"), "{error}");
        }
    }
}
