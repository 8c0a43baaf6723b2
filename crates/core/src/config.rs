//! What inputs and processes are made from.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Operation;

/// Everything an input is made from. `Debug` shows the keys of the options without their values.
#[derive(Clone, Default, Deserialize)]
pub struct InputConfig {
    /// The input's name.
    pub name: String,
    /// Which constructor of the [`Registry`](crate::Registry) makes it.
    #[serde(rename = "type")]
    pub kind: String,
    /// How to reach the source: for PostgreSQL a URL or a key=value DSN.
    #[serde(default)]
    pub connection_string: SecretString,
    /// Which operations are wanted; `None` leaves it to the input.
    #[serde(default, alias = "operation")]
    pub operations: Option<Vec<Operation>>,
    /// Everything else that the configuration says; the constructor knows what of it is valid.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

impl InputConfig {
    /// The name, as the ancestor's `ID()`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.name
    }
}

/// Everything a process is made from. `Debug` shows the keys of the execution context without their values.
#[derive(Clone, Default, Deserialize)]
pub struct ProcessConfig {
    /// The process's name.
    pub name: String,
    /// Which constructor of the [`Registry`](crate::Registry) makes it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Free settings, read by the process.
    #[serde(default)]
    pub execution_context: BTreeMap<String, String>,
}

impl ProcessConfig {
    /// The name, as the ancestor's `ID()`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for InputConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.options.keys().collect();
        f.debug_struct("InputConfig")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("connection_string", &self.connection_string)
            .field("operations", &self.operations)
            .field("options", &keys)
            .finish()
    }
}

impl fmt::Debug for ProcessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.execution_context.keys().collect();
        f.debug_struct("ProcessConfig")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("execution_context", &keys)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_names() {
        assert_eq!(InputConfig::default().id(), "");
        assert_eq!(ProcessConfig::default().id(), "");
        assert_eq!(InputConfig { name: "test".into(), ..Default::default() }.id(), "test");
        assert_eq!(ProcessConfig { name: "test".into(), ..Default::default() }.id(), "test");
    }

    #[test]
    fn operations_have_an_alias() {
        for key in ["operations", "operation"] {
            let json = format!(
                r#"{{"name":"i","type":"postgres","connection_string":"x","{key}":["INSERT","remove"],"tables":["a.*"]}}"#
            );
            let config: InputConfig = serde_json::from_str(&json).unwrap();
            assert_eq!(config.operations, Some(vec![Operation::Create, Operation::Delete]));
            assert_eq!(config.options.keys().collect::<Vec<_>>(), ["tables"]);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let input = InputConfig {
            connection_string: "canary".to_owned().into(),
            options: [("token".to_owned(), "canary".into())].into_iter().collect(),
            ..Default::default()
        };
        let process = ProcessConfig {
            execution_context: [("authorization".to_owned(), "canary".to_owned())].into(),
            ..Default::default()
        };
        let text = format!("{input:?}{process:?}");
        assert!(!text.contains("canary") && text.contains("authorization"), "{text}");
        assert!(text.contains("token"), "{text}");
    }
}
