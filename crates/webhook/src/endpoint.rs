//! The endpoint as it may be shown, and what of it must not be.

use reqwest::header::HeaderMap;
use reqwest::{Method, Url};

/// Secrets shorter than this are not looked for in answers: they would match by chance.
const MIN_SECRET_BYTES: usize = 4;

/// The endpoint's public name, and its secrets.
pub(crate) struct Endpoint {
    /// Method and URL without user info, query and fragment.
    shown: String,
    /// Longest first, so that no part of one is left over.
    secrets: Vec<String>,
}

impl Endpoint {
    pub(crate) fn new(method: &Method, url: &Url, headers: &HeaderMap) -> Self {
        let mut public = url.clone();
        // These fail for URLs without a host alone, which http does not have.
        let _ = public.set_username("");
        let _ = public.set_password(None);
        public.set_query(None);
        public.set_fragment(None);

        let mut secrets: Vec<String> = [Some(url.username()), url.password(), url.query(), url.fragment()]
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect();
        secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
        secrets.extend(url.query().into_iter().flat_map(|query| query.split(['&', '='])).map(str::to_owned));
        for value in headers.values().filter_map(|value| value.to_str().ok()) {
            secrets.push(value.to_owned());
            // Such as `Bearer` and a token.
            secrets.extend(value.split_once(' ').map(|(_, rest)| rest.trim().to_owned()));
        }
        secrets.retain(|secret| secret.len() >= MIN_SECRET_BYTES);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { shown: format!("{method} {public}"), secrets }
    }

    /// Method and URL without secrets.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// `text` without the secrets that it repeats, as answers do that quote the request.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        let headers = [("authorization", "Bearer token-9"), ("x-key", "key-8")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Endpoint::new(&Method::PUT, &Url::parse(url).unwrap(), &headers.into_iter().collect())
    }

    #[test]
    fn only_the_public_part_is_shown() {
        for (url, shown) in [
            ("http://h", "PUT http://h/"),
            ("https://user:pass@h:81/a/b?token=x#frag", "PUT https://h:81/a/b"),
            ("http://[::1]:80/?", "PUT http://[::1]/"),
        ] {
            assert_eq!(endpoint(url).shown(), shown);
        }
    }

    #[test]
    fn secrets_are_taken_out_of_answers() {
        let endpoint = endpoint("http://user1:p%40ssword@h/hook?token=ca%6Eary&a=1#fragment");
        let text = "no /hook?token=ca%6Eary&a=1 (canary, ca%6Eary) for user1:p%40ssword, a=1, token-9, key-8";
        assert_eq!(endpoint.redact(text), "no /hook?*** (***, ***) for ***:***, a=1, ***, ***");
    }
}
