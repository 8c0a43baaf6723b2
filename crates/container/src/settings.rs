//! What the execution context says.

use std::time::Duration;

use dapper_core::ProcessConfig;
use dapper_program::{is_name, split};
use jiff::SignedDuration;

use crate::error::ContainerError;
use crate::image::Image;

/// Key of the execution context: the image, with tag or digest; `latest` unless it has one. Must be set.
pub const IMAGE: &str = "image";

/// Key of the execution context: arguments for the container, in place of those that the image has; separated by blanks,
/// quotes keep blanks together.
pub const COMMAND: &str = "command";

/// Key of the execution context: `missing` (the image is pulled when the engine does not have it; the default), `always`
/// (before each run) or `never`.
pub const PULL: &str = "pull";

/// Key of the execution context: the network of the container, such as `none`, `host` or one of your own; the engine's default
/// unless set.
pub const NETWORK: &str = "network";

/// Key of the execution context: the path of the engine's socket, [`DEFAULT_SOCKET`] unless set.
pub const SOCKET: &str = "socket";

/// Key of the execution context: how long a run may take, pulling included, such as `10s` or `1m 30s`.
///
/// [`DEFAULT_TIMEOUT`] unless set, [`MAX_TIMEOUT`] at most.
pub const TIMEOUT: &str = "timeout";

/// Beginning of keys of the execution context: `env.API_KEY` is the variable `API_KEY`. Values are secrets.
pub const ENV: &str = "env.";

/// Where engines listen.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long a run may take unless [`TIMEOUT`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The longest [`TIMEOUT`].
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// All keys of the execution context; the last stands for all that begin so.
pub const KEYS: [&str; 7] = [IMAGE, COMMAND, PULL, NETWORK, SOCKET, TIMEOUT, "env.NAME"];

/// When the image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pull {
    Missing,
    Always,
    Never,
}

/// The execution context, understood. No `Debug`: variables may be secrets.
pub(crate) struct Settings {
    pub(crate) image: Image,
    pub(crate) command: Vec<String>,
    pub(crate) pull: Pull,
    pub(crate) network: Option<String>,
    pub(crate) socket: String,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) timeout: Duration,
}

impl Settings {
    pub(crate) fn read(config: &ProcessConfig) -> Result<Self, ContainerError> {
        let context = &config.execution_context;
        let is_known = |key: &str| KEYS.contains(&key) || key.starts_with(ENV);
        if let Some(key) = context.keys().find(|key| !is_known(key)) {
            return Err(ContainerError::UnknownKey { key: key.clone(), nearest: nearest_key(key) });
        }
        let text = |key: &str| context.get(key).map(|text| text.trim());
        let filled = |key: &'static str| match text(key) {
            Some("") => Err(ContainerError::value(key, "is empty")),
            text => Ok(text),
        };
        let env = context.iter().filter_map(|(key, value)| Some((key, key.strip_prefix(ENV)?, value)));
        let env = env.map(|(key, name, value)| {
            if !is_name(name) {
                return Err(ContainerError::value(key, "has no name that a variable may have here"));
            }
            if value.contains('\0') {
                return Err(ContainerError::value(key, "holds a NUL, which no variable can"));
            }
            Ok((name.to_owned(), value.clone()))
        });
        let command = text(COMMAND).map(split).transpose();
        Ok(Self {
            image: read_image(text(IMAGE).unwrap_or_default())?,
            command: command.map_err(|reason| ContainerError::value(COMMAND, reason))?.unwrap_or_default(),
            pull: text(PULL).map_or(Ok(Pull::Missing), read_pull)?,
            network: filled(NETWORK)?.map(str::to_owned),
            socket: filled(SOCKET)?.unwrap_or(DEFAULT_SOCKET).to_owned(),
            env: env.collect::<Result<_, _>>()?,
            timeout: text(TIMEOUT).map_or(Ok(DEFAULT_TIMEOUT), read_timeout)?,
        })
    }
}

fn nearest_key(key: &str) -> &'static str {
    let key = key.to_lowercase();
    KEYS.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key)).unwrap_or(IMAGE)
}

fn read_image(text: &str) -> Result<Image, ContainerError> {
    if text.is_empty() {
        return Err(ContainerError::value(IMAGE, "is missing or empty; set it to an image such as alpine:3"));
    }
    let wrong = || ContainerError::value(IMAGE, format!("is {text:?}, which is no name of an image"));
    Image::parse(text).ok_or_else(wrong)
}

fn read_pull(text: &str) -> Result<Pull, ContainerError> {
    match text {
        "missing" => Ok(Pull::Missing),
        "always" => Ok(Pull::Always),
        "never" => Ok(Pull::Never),
        other => {
            let expected = "it must be \"missing\", \"always\" or \"never\"";
            Err(ContainerError::value(PULL, format!("is {other:?}; {expected}")))
        }
    }
}

fn read_timeout(text: &str) -> Result<Duration, ContainerError> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|timeout| Duration::try_from(timeout).ok());
    parsed.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT).ok_or_else(|| {
        let most = MAX_TIMEOUT.as_secs();
        let expected = format!("it must be a duration like 10s or 1m 30s, above 0 and at most {most} s");
        ContainerError::value(TIMEOUT, format!("is {text:?}; {expected}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn read(context: &[(&str, &str)]) -> Result<Settings, ContainerError> {
        let execution_context = context.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        Settings::read(&ProcessConfig { name: "run".into(), kind: "container".into(), execution_context })
    }

    #[allow(clippy::needless_pass_by_value)] // `expect![[…]]` is written in place.
    fn check(context: &[(&str, &str)], expected: Expect) {
        let error = read(context).map(|_| ()).unwrap_err();
        assert!(error.key().is_some());
        expected.assert_eq(&error.into_config_error("run".into()).to_string());
    }

    #[test]
    fn defaults_and_everything_set() {
        let settings = read(&[(IMAGE, "alpine")]).ok().unwrap();
        assert_eq!((settings.image.name(), settings.pull), ("alpine:latest".to_owned(), Pull::Missing));
        assert_eq!((&*settings.socket, settings.timeout), (DEFAULT_SOCKET, DEFAULT_TIMEOUT));
        let all = [
            (IMAGE, "a:1"),
            (COMMAND, "x 'y z'"),
            (PULL, "never"),
            (NETWORK, "none"),
            (SOCKET, "/s"),
            (TIMEOUT, "1h"),
            ("env.A", "b"),
        ];
        let settings = read(&all).ok().unwrap();
        assert_eq!((settings.command, settings.pull), (vec!["x".to_owned(), "y z".to_owned()], Pull::Never));
        assert_eq!((settings.network.as_deref(), &*settings.socket), (Some("none"), "/s"));
        assert_eq!(settings.env, [("A".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn mistakes_are_named() {
        check(
            &[],
            expect![[r#"process "run": "image" is missing or empty; set it to an image such as alpine:3"#]],
        );
        check(
            &[(IMAGE, "a b")],
            expect![[r#"process "run": "image" is "a b", which is no name of an image"#]],
        );
        check(
            &[(IMAGE, "a"), (PULL, "often")],
            expect![[r#"process "run": "pull" is "often"; it must be "missing", "always" or "never""#]],
        );
        check(&[(IMAGE, "a"), (NETWORK, "")], expect![[r#"process "run": "network" is empty"#]]);
        check(
            &[(IMAGE, "a"), (COMMAND, "'")],
            expect![[r#"process "run": "command" has a quote that is not closed"#]],
        );
        check(
            &[(IMAGE, "a"), ("env.PIPELINE_EVENT", "canary")],
            expect![[r#"process "run": "env.PIPELINE_EVENT" has no name that a variable may have here"#]],
        );
        check(
            &[(IMAGE, "a"), (TIMEOUT, "0s")],
            expect![[
                r#"process "run": "timeout" is "0s"; it must be a duration like 10s or 1m 30s, above 0 and at most 86400 s"#
            ]],
        );
        check(
            &[("imgae", "a")],
            expect![[
                r#"process "run": unknown key "imgae"; did you mean "image"? Known are image, command, pull, network, socket, timeout, env.NAME"#
            ]],
        );
    }
}
