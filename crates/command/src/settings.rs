//! What the execution context says.

use std::path::PathBuf;
use std::time::Duration;

use dapper_core::ProcessConfig;
use dapper_program::{is_name, split};
use jiff::SignedDuration;

use crate::error::CommandError;

/// Key of the execution context: the program and its arguments, separated by blanks; quotes keep blanks together. Must be
/// set.
pub const COMMAND: &str = "command";

/// Key of the execution context: `false` unless set to `true`, which has `/bin/sh -c` run the command as it stands.
pub const SHELL: &str = "shell";

/// Key of the execution context: where the program runs; where the replica does unless set.
pub const DIRECTORY: &str = "directory";

/// Key of the execution context: names of variables, separated by blanks, that the program has of the replica's environment;
/// `PATH` unless set.
pub const KEEP_ENV: &str = "keep_env";

/// Key of the execution context: how long the program may run, such as `10s` or `1m 30s`.
///
/// [`DEFAULT_TIMEOUT`] unless set, [`MAX_TIMEOUT`] at most.
pub const TIMEOUT: &str = "timeout";

/// Beginning of keys of the execution context: `env.API_KEY` is the variable `API_KEY`. Values are secrets.
pub const ENV: &str = "env.";

/// How long the program may run unless [`TIMEOUT`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest [`TIMEOUT`].
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// All keys of the execution context; the last stands for all that begin so.
pub const KEYS: [&str; 6] = [COMMAND, SHELL, DIRECTORY, KEEP_ENV, TIMEOUT, "env.NAME"];

/// The execution context, understood. No `Debug`: arguments and variables may be secrets.
pub(crate) struct Settings {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) keep_env: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) timeout: Duration,
}

impl Settings {
    pub(crate) fn read(config: &ProcessConfig) -> Result<Self, CommandError> {
        let context = &config.execution_context;
        let is_known = |key: &str| KEYS.contains(&key) || key.starts_with(ENV);
        if let Some(key) = context.keys().find(|key| !is_known(key)) {
            return Err(CommandError::UnknownKey { key: key.clone(), nearest: nearest_key(key) });
        }
        let text = |key: &str| context.get(key).map(String::as_str);
        let (program, arguments) = read_command(text(COMMAND).unwrap_or_default(), text(SHELL))?;
        let env = context.iter().filter_map(|(key, value)| Some((key, key.strip_prefix(ENV)?, value)));
        let env = env.map(|(key, name, value)| {
            if !is_name(name) {
                return Err(CommandError::value(key, "has no name that a variable may have here"));
            }
            if value.contains('\0') {
                return Err(CommandError::value(key, "holds a NUL, which no variable can"));
            }
            Ok((name.to_owned(), value.clone()))
        });
        Ok(Self {
            program,
            arguments,
            directory: read_directory(text(DIRECTORY))?,
            keep_env: read_names(text(KEEP_ENV).unwrap_or("PATH"))?,
            env: env.collect::<Result<_, _>>()?,
            timeout: text(TIMEOUT).map_or(Ok(DEFAULT_TIMEOUT), read_timeout)?,
        })
    }
}

fn nearest_key(key: &str) -> &'static str {
    let key = key.to_lowercase();
    KEYS.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key)).unwrap_or(COMMAND)
}

fn read_command(command: &str, shell: Option<&str>) -> Result<(String, Vec<String>), CommandError> {
    let wrong = |reason: &str| CommandError::value(COMMAND, reason);
    if command.contains('\0') {
        return Err(wrong("holds a NUL, which no command line can"));
    }
    if command.trim().is_empty() {
        return Err(wrong("is missing or empty; set it to a program and its arguments"));
    }
    match shell {
        None | Some("false") => {
            let mut words = split(command).map_err(wrong)?.into_iter();
            let program = words.next().filter(|program| !program.is_empty());
            Ok((program.ok_or_else(|| wrong("names no program"))?, words.collect()))
        }
        Some("true") => Ok(("/bin/sh".to_owned(), vec!["-c".to_owned(), command.to_owned()])),
        Some(other) => {
            Err(CommandError::value(SHELL, format!("is {other:?}; it must be \"true\" or \"false\"")))
        }
    }
}

fn read_directory(text: Option<&str>) -> Result<Option<PathBuf>, CommandError> {
    match text {
        Some(text) if text.is_empty() || text.contains('\0') => {
            Err(CommandError::value(DIRECTORY, "is no path of a directory"))
        }
        text => Ok(text.map(PathBuf::from)),
    }
}

fn read_names(text: &str) -> Result<Vec<String>, CommandError> {
    let names = text.split_whitespace().map(|name| {
        if is_name(name) {
            Ok(name.to_owned())
        } else {
            Err(CommandError::value(KEEP_ENV, format!("holds {name:?}, which is no name of a variable")))
        }
    });
    names.collect()
}

fn read_timeout(text: &str) -> Result<Duration, CommandError> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|timeout| Duration::try_from(timeout).ok());
    parsed.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT).ok_or_else(|| {
        let most = MAX_TIMEOUT.as_secs();
        let expected = format!("it must be a duration like 10s or 1m 30s, above 0 and at most {most} s");
        CommandError::value(TIMEOUT, format!("is {text:?}; {expected}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn read(context: &[(&str, &str)]) -> Result<Settings, CommandError> {
        let execution_context = context.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        Settings::read(&ProcessConfig { name: "run".into(), kind: "command".into(), execution_context })
    }

    #[allow(clippy::needless_pass_by_value)] // `expect![[…]]` is written in place.
    fn check(context: &[(&str, &str)], expected: Expect) {
        let error = read(context).map(|_| ()).unwrap_err();
        assert!(error.key().is_some());
        expected.assert_eq(&error.into_config_error("run".into()).to_string());
    }

    #[test]
    fn defaults_and_everything_set() {
        let settings = read(&[(COMMAND, "notify 'a b'")]).ok().unwrap();
        assert_eq!((settings.program.as_str(), &settings.arguments[..]), ("notify", &["a b".to_owned()][..]));
        assert_eq!((settings.keep_env, settings.timeout), (vec!["PATH".to_owned()], DEFAULT_TIMEOUT));

        let all = [
            (COMMAND, "a | b"),
            (SHELL, "true"),
            (DIRECTORY, "/tmp"),
            (KEEP_ENV, "HOME  LANG"),
            (TIMEOUT, "1h"),
            ("env.API_KEY", "k"),
        ];
        let settings = read(&all).ok().unwrap();
        assert_eq!((settings.program.as_str(), &settings.arguments[1]), ("/bin/sh", &"a | b".to_owned()));
        assert_eq!(settings.keep_env, ["HOME", "LANG"]);
        assert_eq!(settings.env, [("API_KEY".to_owned(), "k".to_owned())]);
        assert!(read(&[(COMMAND, "a"), (KEEP_ENV, "")]).ok().unwrap().keep_env.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        check(
            &[],
            expect![[
                r#"process "run": "command" is missing or empty; set it to a program and its arguments"#
            ]],
        );
        check(&[(COMMAND, "'a")], expect![[r#"process "run": "command" has a quote that is not closed"#]]);
        check(&[(COMMAND, "'' a")], expect![[r#"process "run": "command" names no program"#]]);
        check(
            &[(COMMAND, "a\0b")],
            expect![[r#"process "run": "command" holds a NUL, which no command line can"#]],
        );
        check(
            &[(COMMAND, "a"), (SHELL, "yes")],
            expect![[r#"process "run": "shell" is "yes"; it must be "true" or "false""#]],
        );
        check(
            &[(COMMAND, "a"), (DIRECTORY, "")],
            expect![[r#"process "run": "directory" is no path of a directory"#]],
        );
        check(
            &[(COMMAND, "a"), (KEEP_ENV, "A=b")],
            expect![[r#"process "run": "keep_env" holds "A=b", which is no name of a variable"#]],
        );
        check(
            &[(COMMAND, "a"), ("env.", "x")],
            expect![[r#"process "run": "env." has no name that a variable may have here"#]],
        );
        check(
            &[(COMMAND, "a"), ("env.PIPELINE_EVENT", "x")],
            expect![[r#"process "run": "env.PIPELINE_EVENT" has no name that a variable may have here"#]],
        );
        check(
            &[(COMMAND, "a"), (TIMEOUT, "25h")],
            expect![[
                r#"process "run": "timeout" is "25h"; it must be a duration like 10s or 1m 30s, above 0 and at most 86400 s"#
            ]],
        );
        check(
            &[("comand", "a")],
            expect![[
                r#"process "run": unknown key "comand"; did you mean "command"? Known are command, shell, directory, keep_env, timeout, env.NAME"#
            ]],
        );
    }
}
