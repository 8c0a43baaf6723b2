//! Signatures as the Standard Webhooks specification has them: `v1`, that is HMAC with SHA-256.
//!
//! What is signed is `id.timestamp.body`. A header holds one signature per secret, separated by spaces: while a secret is
//! replaced, the sender signs with both, and the receiver takes whichever it knows. The signatures with key pairs (`v1a`)
//! are not there.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::hmac::{self, Context, HMAC_SHA256, Key};

/// Names the message: the same over repeats.
pub(crate) const ID: &str = "webhook-id";
/// When it was sent, in seconds since 1970.
pub(crate) const TIMESTAMP: &str = "webhook-timestamp";
/// The signatures.
pub(crate) const SIGNATURE: &str = "webhook-signature";

/// What secrets are written with.
const PREFIX: &str = "whsec_";
/// The one version of signatures that is made and taken.
const VERSION: &str = "v1";
/// How many bytes the specification lets a secret have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// More secrets than this are a mistake.
const MOST_SECRETS: usize = 8;
/// More signatures than this are not looked at.
const MOST_SIGNATURES: usize = 32;
/// How far a message's time may be off.
const TOLERANCE_S: i64 = 5 * 60;

/// What a message is signed with, or a signature must fit to one of.
pub(crate) struct Secrets(Vec<Key>);

/// Why a message is not taken for the sender's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("the headers {ID}, {TIMESTAMP} and {SIGNATURE} must all be there, each once and as text")]
    Missing,
    #[error("{TIMESTAMP} is no number of seconds since 1970")]
    Malformed,
    #[error("{TIMESTAMP} is more than five minutes away")]
    OutOfTime,
    #[error("no signature fits")]
    NoMatch,
}

impl Secrets {
    /// Reads secrets separated by spaces. What is wrong is said without showing any of them.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let keys: Vec<Key> = text
            .split_whitespace()
            .enumerate()
            .map(|(index, secret)| {
                let wrong = |what: &str| format!("holds, as number {}, {what}", index + 1);
                let text = secret.strip_prefix(PREFIX).unwrap_or(secret);
                let bytes = STANDARD.decode(text).map_err(|_| {
                    wrong("something that is not whsec_ and base64, as the Standard Webhooks specification has it")
                })?;
                if !SECRET_BYTES.contains(&bytes.len()) {
                    return Err(wrong("a secret that does not have 24 to 64 bytes"));
                }
                Ok(Key::new(HMAC_SHA256, &bytes))
            })
            .collect::<Result<_, String>>()?;
        match keys.len() {
            0 => Err("is empty".to_owned()),
            1..=MOST_SECRETS => Ok(Self(keys)),
            _ => Err(format!("holds more than {MOST_SECRETS} secrets")),
        }
    }

    /// The signatures of a message, one per secret.
    pub(crate) fn sign(&self, id: &str, timestamp: Timestamp, body: &[u8]) -> String {
        let seconds = timestamp.as_second().to_string();
        let signatures = self.0.iter().map(|key| {
            let tag = context(key, id, &seconds, body).sign();
            format!("{VERSION},{}", STANDARD.encode(tag))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }

    /// Whether one of the signatures fits to one of the secrets, and the time is near. Takes as long whatever is wrong
    /// with a signature.
    pub(crate) fn verify(
        &self,
        headers: [Option<&str>; 3],
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let [Some(id), Some(timestamp), Some(signatures)] = headers else {
            return Err(SignatureError::Missing);
        };
        let seconds: i64 = timestamp.parse().map_err(|_| SignatureError::Malformed)?;
        if now.as_second().abs_diff(seconds) > TOLERANCE_S.unsigned_abs() {
            return Err(SignatureError::OutOfTime);
        }
        let given = signatures.split(' ').take(MOST_SIGNATURES);
        let given: Vec<Vec<u8>> = given
            .filter_map(|signature| {
                let (version, text) = signature.split_once(',')?;
                STANDARD.decode(text).ok().filter(|_| version == VERSION)
            })
            .collect();
        let message = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
        let fits = |key: &Key| given.iter().any(|tag| hmac::verify(key, &message, tag).is_ok());
        if self.0.iter().any(fits) { Ok(()) } else { Err(SignatureError::NoMatch) }
    }
}

fn context(key: &Key, id: &str, seconds: &str, body: &[u8]) -> Context {
    let mut context = Context::with_key(key);
    for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
        context.update(part);
    }
    context
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the specification's reference implementations are tested with.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const EXPECTED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    /// As long as the specification wants it.
    const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn verify(secrets: &str, signature: &str, body: &[u8], now: i64) -> Result<(), SignatureError> {
        let seconds = SECONDS.to_string();
        let headers = [Some(MESSAGE), Some(&*seconds), Some(signature)];
        Secrets::read(secrets).unwrap().verify(headers, body, at(now))
    }

    #[test]
    fn the_specifications_vector_is_signed_and_taken() {
        for secret in [SECRET, &SECRET[PREFIX.len()..]] {
            let secrets = Secrets::read(secret).unwrap();
            assert_eq!(secrets.sign(MESSAGE, at(SECONDS), BODY), EXPECTED);
        }
        assert_eq!(verify(SECRET, EXPECTED, BODY, SECONDS), Ok(()));
    }

    #[test]
    fn a_secret_is_replaced_without_a_gap() {
        let both = format!("{OTHER} {SECRET}");
        let signed = Secrets::read(&both).unwrap().sign(MESSAGE, at(SECONDS), BODY);
        let (new, old) = signed.split_once(' ').unwrap();
        assert_eq!(old, EXPECTED);
        for (known, signature, expected) in [
            (SECRET, &*signed, Ok(())),
            (OTHER, &*signed, Ok(())),
            (&*both, old, Ok(())),
            (&*both, new, Ok(())),
            (SECRET, new, Err(SignatureError::NoMatch)),
        ] {
            assert_eq!(verify(known, signature, BODY, SECONDS), expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let no_match = Err(SignatureError::NoMatch);
        assert_eq!(verify(SECRET, EXPECTED, br#"{"test":2432232314}"#, SECONDS), no_match);
        assert_eq!(verify(OTHER, EXPECTED, BODY, SECONDS), no_match);
        for signature in ["", "v1", "v1,", "v1,Zm9v", &EXPECTED[3..], &EXPECTED.replace("v1,", "v2,")] {
            assert_eq!(verify(SECRET, signature, BODY, SECONDS), no_match, "{signature}");
        }
        let many = "v1,Zm9v ".repeat(MOST_SIGNATURES) + EXPECTED;
        assert_eq!(verify(SECRET, &many, BODY, SECONDS), no_match, "not looked at for ever");
        let some = "v1a,Zm9v v1,Zm9v ".to_owned() + EXPECTED;
        assert_eq!(verify(SECRET, &some, BODY, SECONDS), Ok(()));
    }

    #[test]
    fn a_message_is_good_for_five_minutes_either_way() {
        for (off, expected) in [
            (TOLERANCE_S, Ok(())),
            (-TOLERANCE_S, Ok(())),
            (TOLERANCE_S + 1, Err(SignatureError::OutOfTime)),
            (-TOLERANCE_S - 1, Err(SignatureError::OutOfTime)),
        ] {
            assert_eq!(verify(SECRET, EXPECTED, BODY, SECONDS + off), expected, "{off}");
        }
        let secrets = Secrets::read(SECRET).unwrap();
        let headers = |seconds| [Some(MESSAGE), seconds, Some(EXPECTED)];
        let of = |seconds| secrets.verify(headers(seconds), BODY, at(SECONDS));
        assert_eq!((of(None), of(Some("x"))), (Err(SignatureError::Missing), Err(SignatureError::Malformed)));
        assert_eq!(of(Some("-9223372036854775808")), Err(SignatureError::OutOfTime));
    }

    #[test]
    fn bad_secrets_are_not_shown() {
        for (text, expected) in [
            ("", "is empty"),
            ("whsec_canary!", "holds, as number 1, something that is not whsec_ and base64"),
            (&*format!("{SECRET} whsec_Y2FuYXJ5"), "holds, as number 2, a secret that does not have 24"),
            (&*format!("{SECRET} ").repeat(9), "holds more than 8 secrets"),
        ] {
            let error = Secrets::read(text).map(|_| ()).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("canary"), "{error}");
        }
        assert_eq!(format!("{:?}", Secrets::read(SECRET).unwrap()), "Secrets(1)");
    }
}
