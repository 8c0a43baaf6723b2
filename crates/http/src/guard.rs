//! Who may ask what: the names under which this server may be spoken to, where an action may come from, and its token.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, Uri};
use secrecy::{ExposeSecret, SecretString};
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Wrong tokens within [`WINDOW`], beyond which none is looked at until it has passed.
const MOST_WRONG: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// A shorter token could be guessed.
pub const SHORTEST_TOKEN: usize = 16;

/// Says where a browser's request comes from; browsers alone send it, and no script can.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Decides on requests by their headers alone.
pub(crate) struct Guard {
    token: Option<SecretString>,
    /// Names besides those of this machine and addresses, in lower case.
    hosts: Vec<String>,
    wrong: Mutex<Wrong>,
}

#[derive(Default)]
struct Wrong {
    count: u32,
    since: Option<Instant>,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It speaks to a name that is not ours: a page of another site whose name was made to lead here.
    Host,
    /// It comes from another site's page.
    CrossSite,
    /// It says no token, or a wrong one.
    Token,
    /// There were too many wrong ones.
    TooMany,
    /// There is no token, so there are no actions.
    NoActions,
    /// It is no JSON. A form of another site can't send that without asking first.
    ContentType,
}

impl Guard {
    pub(crate) fn new(token: Option<SecretString>, hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { token, hosts, wrong: Mutex::default() }
    }

    /// Whether there are actions at all.
    pub(crate) fn has_actions(&self) -> bool {
        self.token.is_some()
    }

    /// Any request: it must be meant for us. A name of somebody else's that leads to our address would let his pages
    /// read ours; an address can't be made to lead elsewhere.
    pub(crate) fn host(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        let mut named = headers.get_all(HOST).iter();
        let host = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().map_err(|_| Refusal::Host)?,
            (None, None) => uri.authority().map(axum::http::uri::Authority::as_str).ok_or(Refusal::Host)?,
            _ => return Err(Refusal::Host),
        };
        let name = without_port(host).ok_or(Refusal::Host)?.to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let is_ours = name == "localhost" || address.parse::<IpAddr>().is_ok() || self.hosts.contains(&name);
        if is_ours { Ok(()) } else { Err(Refusal::Host) }
    }

    /// A request to act, whose host is ours.
    pub(crate) fn action(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Err(Refusal::NoActions) };
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        if text(SEC_FETCH_SITE).is_some_and(|site| site != "same-origin") {
            return Err(Refusal::CrossSite);
        }
        if let Some(origin) = text(ORIGIN) {
            let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            let is_own = of.zip(text(HOST)).is_some_and(|(of, host)| of.eq_ignore_ascii_case(host));
            if !is_own {
                return Err(Refusal::CrossSite);
            }
        }
        let is_json = text(CONTENT_TYPE).is_some_and(|kind| {
            kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(Refusal::ContentType);
        }
        let said = text(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("");
        self.token(said, token)
    }

    fn token(&self, said: &str, token: &SecretString) -> Result<(), Refusal> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.since.is_some_and(|since| since.elapsed() >= WINDOW) {
            *wrong = Wrong::default();
        }
        if wrong.count >= MOST_WRONG {
            return Err(Refusal::TooMany);
        }
        if is_same(said.as_bytes(), token.expose_secret().as_bytes()) {
            return Ok(());
        }
        wrong.count += 1;
        wrong.since.get_or_insert_with(Instant::now);
        Err(Refusal::Token)
    }
}

/// Compares in a time that tells only whether the lengths differ.
fn is_same(said: &[u8], token: &[u8]) -> bool {
    if said.len() != token.len() {
        return false;
    }
    let differences = said.iter().zip(token).fold(0_u8, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    differences == 0
}

/// The name in a `Host` header, `None` where that is malformed.
fn without_port(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(end);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    const TOKEN: &str = "correct horse battery staple";

    fn guard() -> Guard {
        Guard::new(Some(SecretString::from(TOKEN)), vec!["Dapper.example".into()])
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn host(name: &str) -> Result<(), Refusal> {
        guard().host(&headers(&[("host", name)]), &Uri::from_static("/"))
    }

    #[test]
    fn only_addresses_and_names_of_ours_are_spoken_to() {
        for ours in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:9090",
            "[::1]:9090",
            "[::1]",
            "10.0.0.7",
            "dapper.example:1",
        ] {
            assert_eq!(host(ours), Ok(()), "{ours}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[::1",
            "",
            "localhost:x",
            "[::1]x",
        ] {
            assert_eq!(host(other), Err(Refusal::Host), "{other}");
        }
        let nothing = guard().host(&HeaderMap::new(), &Uri::from_static("/"));
        assert_eq!(nothing, Err(Refusal::Host));
    }

    #[test]
    fn an_action_needs_everything_to_be_right() {
        let bearer = format!("Bearer {TOKEN}");
        let good = [
            ("host", "localhost:9090"),
            ("content-type", "application/json; charset=utf-8"),
            ("authorization", bearer.as_str()),
        ];
        let with = |more: &[(&'static str, &str)]| {
            let mut all = headers(&good);
            for (name, value) in more {
                all.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
            guard().action(&all)
        };
        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&[("origin", "http://localhost:9090"), ("sec-fetch-site", "same-origin")]), Ok(()));
        for origin in ["null", "http://localhost", "http://evil.example", "localhost:9090"] {
            assert_eq!(with(&[("origin", origin)]), Err(Refusal::CrossSite), "{origin}");
        }
        for site in ["cross-site", "same-site", "none"] {
            assert_eq!(with(&[("sec-fetch-site", site)]), Err(Refusal::CrossSite), "{site}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
            assert_eq!(with(&[("content-type", kind)]), Err(Refusal::ContentType), "{kind}");
        }
        for said in ["Bearer ", "Bearer x", "Basic abc", &bearer[..bearer.len() - 1]] {
            assert_eq!(with(&[("authorization", said)]), Err(Refusal::Token), "{said}");
        }
        assert_eq!(Guard::new(None, Vec::new()).action(&headers(&good)), Err(Refusal::NoActions));
    }

    #[tokio::test(start_paused = true)]
    async fn guessing_is_stopped_for_a_while() {
        let guard = guard();
        let token = SecretString::from(TOKEN);
        for _ in 0..MOST_WRONG {
            assert_eq!(guard.token("guess", &token), Err(Refusal::Token));
        }
        assert_eq!(guard.token(TOKEN, &token), Err(Refusal::TooMany));
        tokio::time::advance(WINDOW).await;
        assert_eq!(guard.token(TOKEN, &token), Ok(()));
    }

    proptest! {
        #[test]
        fn the_comparison_is_equality(a in prop::collection::vec(0_u8..3, 0..4), b in prop::collection::vec(0_u8..3, 0..4)) {
            prop_assert_eq!(is_same(&a, &b), a == b);
        }

        #[test]
        fn no_header_makes_it_panic(host in "\\PC{0,40}") {
            let _ = without_port(&host);
        }
    }
}
