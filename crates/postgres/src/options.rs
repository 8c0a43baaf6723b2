//! What a pipeline file may say of an input of type `postgres`.

use std::time::Duration;

use dapper_core::{InputConfig, Operation};
use serde_json::Value;

use crate::PostgresError;
use crate::images::{ColumnPatterns, Images};
use crate::names::Names;
use crate::patterns::TablePatterns;
use dapper_connect::ConnectionString;

/// The options of [`InputConfig::options`] that this input knows.
pub const OPTION_KEYS: [&str; 10] = [
    "tables",
    "exclude",
    "images",
    "exclude_columns",
    "on_capture_error",
    "wake_up",
    "retention",
    "warn_size",
    "max_size",
    "install",
];

/// How a sleeping reader learns of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeUp {
    /// `Notify`, or `Poll` where prepared transactions are possible: a NOTIFY would make `PREPARE TRANSACTION` fail.
    Auto,
    /// Writers notify while the reader sleeps.
    Notify,
    /// Writers never notify; the reader looks several times a second.
    Poll,
}

/// A few days of a busy application's changes.
const DEFAULT_WARN_SIZE: i64 = 1 << 30;

/// Whether a replica installs what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Install {
    /// Where its role may.
    Auto,
    /// `dapper install` does, with another role.
    Never,
}

/// What becomes of a statement whose changes can't be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnCaptureError {
    /// It fails, so that no change is lost.
    Fail,
    /// It passes, and its changes are missed; that is counted.
    Skip,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) names: Names,
    pub(crate) connection: ConnectionString,
    /// Sorted, without duplicates, never [`Operation::Read`].
    pub(crate) operations: Vec<Operation>,
    pub(crate) tables: TablePatterns,
    pub(crate) images: Images,
    /// Has no effect on keys.
    pub(crate) exclude_columns: ColumnPatterns,
    pub(crate) on_capture_error: OnCaptureError,
    pub(crate) wake_up: WakeUp,
    /// How long a change set is kept after it was read.
    pub(crate) retention: Duration,
    /// Report when the change sets take more than this, in bytes.
    pub(crate) warn_size: i64,
    /// Record nothing more while the change sets take this or more, in bytes: that is an error of the capture.
    pub(crate) max_size: Option<i64>,
    pub(crate) install: Install,
}

impl Options {
    pub(crate) fn parse(config: &InputConfig) -> Result<Self, PostgresError> {
        for key in config.options.keys() {
            if !OPTION_KEYS.contains(&key.as_str()) {
                return Err(unknown_option(key));
            }
        }
        let option = |key: &str| config.options.get(key);
        let include = match option("tables") {
            Some(value) => strings("tables", value)?,
            None => vec!["public.*".to_owned()],
        };
        let exclude = option("exclude").map_or(Ok(Vec::new()), |value| strings("exclude", value))?;
        let images = match option("images").map(|value| string("images", value)).transpose()? {
            None | Some("key") => Images::Key,
            Some("new") => Images::New,
            Some("old-and-new") => Images::OldAndNew,
            Some(other) => {
                let reason = format!("{other:?} is unknown; use \"key\", \"new\" or \"old-and-new\"");
                return Err(refuse("images", reason));
            }
        };
        let exclude_columns =
            option("exclude_columns").map_or(Ok(Vec::new()), |value| strings("exclude_columns", value))?;
        let on_capture_error =
            match option("on_capture_error").map(|value| string("on_capture_error", value)).transpose()? {
                None | Some("fail") => OnCaptureError::Fail,
                Some("skip") => OnCaptureError::Skip,
                Some(other) => {
                    let reason = format!("{other:?} is unknown; use \"fail\" or \"skip\"");
                    return Err(refuse("on_capture_error", reason));
                }
            };
        let wake_up = match option("wake_up").map(|value| string("wake_up", value)).transpose()? {
            None | Some("auto") => WakeUp::Auto,
            Some("notify") => WakeUp::Notify,
            Some("poll") => WakeUp::Poll,
            Some(other) => {
                let reason = format!("{other:?} is unknown; use \"auto\", \"notify\" or \"poll\"");
                return Err(refuse("wake_up", reason));
            }
        };
        let retention = match option("retention").map(|value| string("retention", value)).transpose()? {
            None => Duration::from_secs(24 * 60 * 60),
            Some(text) => duration("retention", text)?,
        };
        let install = match option("install").map(|value| string("install", value)).transpose()? {
            None | Some("auto") => Install::Auto,
            Some("never") => Install::Never,
            Some(other) => {
                return Err(refuse("install", format!("{other:?} is unknown; use \"auto\" or \"never\"")));
            }
        };
        Ok(Self {
            name: config.name.clone(),
            names: Names::new(&config.name),
            connection: ConnectionString::parse(&config.connection_string)?,
            operations: operations(config.operations.as_deref())?,
            tables: TablePatterns::parse(&include, &exclude)?,
            images,
            exclude_columns: ColumnPatterns::parse(&exclude_columns)?,
            on_capture_error,
            wake_up,
            retention,
            warn_size: size("warn_size", option("warn_size"))?.unwrap_or(DEFAULT_WARN_SIZE),
            max_size: size("max_size", option("max_size"))?,
            install,
        })
    }
}

fn operations(configured: Option<&[Operation]>) -> Result<Vec<Operation>, PostgresError> {
    let mut operations = configured
        .map_or_else(|| vec![Operation::Create, Operation::Update, Operation::Delete], <[Operation]>::to_vec);
    operations.sort();
    operations.dedup();
    if operations.is_empty() {
        return Err(refuse("operations", "is empty; name at least one of create, update, delete, truncate"));
    }
    if operations.contains(&Operation::Read) {
        let reason = "names \"read\", which PostgreSQL does not report; use create, update, delete, truncate";
        return Err(refuse("operations", reason));
    }
    Ok(operations)
}

fn strings(key: &str, value: &Value) -> Result<Vec<String>, PostgresError> {
    let list = value.as_array().ok_or_else(|| refuse(key, "must be a list of strings"))?;
    let texts: Result<Vec<_>, _> = list.iter().map(|item| string(key, item).map(str::to_owned)).collect();
    texts
}

fn string<'a>(key: &str, value: &'a Value) -> Result<&'a str, PostgresError> {
    value.as_str().ok_or_else(|| refuse(key, "must be text in quotes"))
}

fn duration(key: &str, text: &str) -> Result<Duration, PostgresError> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| refuse(key, format!("{text:?} is no duration; write for example \"24h\" or \"90s\"")))
}

/// A size as PostgreSQL writes it, in multiples of 1,024.
fn size(key: &str, value: Option<&Value>) -> Result<Option<i64>, PostgresError> {
    const UNITS: [(&str, i64); 4] = [("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];
    let Some(text) = value.map(|value| string(key, value)).transpose()? else { return Ok(None) };
    let bytes = UNITS.into_iter().find_map(|(unit, factor)| {
        let number: i64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(factor).filter(|bytes| *bytes > 0)
    });
    let wrong = || refuse(key, format!("{text:?} is no size; write for example \"512MB\" or \"10GB\""));
    bytes.map(Some).ok_or_else(wrong)
}

fn unknown_option(key: &str) -> PostgresError {
    let nearest = OPTION_KEYS
        .into_iter()
        .max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    let hint = nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest:?}?"));
    refuse(key, format!("unknown key {key:?} for an input of type \"postgres\"{hint}"))
}

fn refuse(key: &str, reason: impl Into<String>) -> PostgresError {
    let reason: String = reason.into();
    let reason = if reason.starts_with("unknown key") { reason } else { format!("{key} {reason}") };
    PostgresError::Option { key: key.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> InputConfig {
        let mut config: InputConfig = serde_json::from_str(json).unwrap();
        config.connection_string = "host=localhost".to_owned().into();
        config
    }

    fn refused(json: &str) -> String {
        Options::parse(&config(json)).unwrap_err().to_string()
    }

    #[test]
    fn defaults() {
        let options = Options::parse(&config(r#"{"name":"orders-input","type":"postgres"}"#)).unwrap();
        assert_eq!(options.operations, [Operation::Create, Operation::Update, Operation::Delete]);
        assert_eq!(options.wake_up, WakeUp::Auto);
        assert_eq!(options.retention, Duration::from_secs(86_400));
        assert_eq!((options.warn_size, options.max_size, options.install), (1 << 30, None, Install::Auto));
        assert!(options.tables.matches("public", "orders") && !options.tables.matches("audit", "orders"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |rest: &str| refused(&format!(r#"{{"name":"i","type":"postgres",{rest}}}"#));
        assert_eq!(
            with(r#""retenion":"1h""#),
            r#"unknown key "retenion" for an input of type "postgres"; did you mean "retention"?"#
        );
        assert_eq!(with(r#""tables":"a.*""#), "tables must be a list of strings");
        assert_eq!(
            with(r#""wake_up":"push""#),
            r#"wake_up "push" is unknown; use "auto", "notify" or "poll""#
        );
        assert_eq!(with(r#""install":"once""#), r#"install "once" is unknown; use "auto" or "never""#);
        for text in ["10", "ten GB", "-1GB", "0MB", "9999999999TB"] {
            let refused = with(&format!(r#""max_size":"{text}""#));
            assert!(refused.starts_with("max_size") && refused.contains("is no size"), "{refused}");
        }
        assert!(with(r#""retention":"soon""#).contains("\"soon\" is no duration"));
        assert!(with(r#""operations":["read"]"#).contains("\"read\""));
        assert!(with(r#""operations":[]"#).contains("is empty"));
        assert!(with(r#""images":"old""#).contains("\"old\" is unknown"));
        assert!(with(r#""on_capture_error":"ignore""#).contains("\"fail\" or \"skip\""));
        assert!(with(r#""exclude_columns":["users."]"#).contains("\"users.\""));
    }
}
