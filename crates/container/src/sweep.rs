//! Finds what replicas have left behind that could not remove it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use dapper_core::{Event, ProcessConfig};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::engine::{Engine, Listed};
use crate::error::ContainerError;

const PROCESS: &str = "dapper.process";
const SETTINGS: &str = "dapper.settings";
const INPUT: &str = "dapper.input";
const TOKEN: &str = "dapper.token";
const TIMEOUT: &str = "dapper.timeout_s";

/// How often it is looked for what is too old.
const PERIOD: Duration = Duration::from_secs(60);
/// How much longer than its timeout a container may be there.
const MARGIN_S: i64 = 60;

/// Labels the containers of one process, and removes those that nobody waits for any more.
pub(crate) struct Sweep {
    process: String,
    settings: String,
    timeout_s: u64,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    at: Option<Instant>,
    /// By input, the highest token for which it was swept.
    tokens: BTreeMap<String, u64>,
}

impl Sweep {
    pub(crate) fn new(config: &ProcessConfig, timeout: Duration) -> Self {
        // The same in all replicas that run the same binary. After an upgrade only age finds what is left.
        let mut hasher = DefaultHasher::new();
        config.execution_context.hash(&mut hasher);
        Self {
            process: config.name.clone(),
            settings: format!("{:016x}", hasher.finish()),
            timeout_s: timeout.as_secs() + 1,
            done: Mutex::default(),
        }
    }

    /// The labels of a container for this event.
    pub(crate) fn labels(&self, event: &Event) -> BTreeMap<&'static str, String> {
        let mut labels = BTreeMap::from([
            (PROCESS, self.process.clone()),
            (SETTINGS, self.settings.clone()),
            (INPUT, event.trigger.to_string()),
            (TIMEOUT, self.timeout_s.to_string()),
        ]);
        if let Some(token) = event.token {
            labels.insert(TOKEN, token.to_string());
        }
        labels
    }

    /// Sweeps when this event is the first with its token, or when it is time. Others wait for it meanwhile.
    pub(crate) async fn before(&self, event: &Event, engine: &Engine) -> Result<(), ContainerError> {
        let mut done = self.done.lock().await;
        let seen = done.tokens.get(&*event.trigger).copied();
        let token = event.token.filter(|token| seen.is_none_or(|seen| *token > seen));
        let is_due = done.at.is_none_or(|at| at.elapsed() >= PERIOD);
        if token.is_none() && !is_due {
            return Ok(());
        }
        let own = [format!("{PROCESS}={}", self.process), format!("{SETTINGS}={}", self.settings)];
        let (containers, now) = engine.list(&own).await?;
        for container in containers {
            if is_left_over(&container, &event.trigger, event.token, now) {
                engine.remove(&container.id).await?;
                tracing::warn!(process = self.process, "removed a container that a replica had left behind");
            }
        }
        done.at = Some(Instant::now());
        if let Some(token) = token {
            done.tokens.insert(event.trigger.to_string(), token);
        }
        Ok(())
    }
}

/// Whether nobody waits for a container: its replica was replaced at this input, or its time is long up.
fn is_left_over(container: &Listed, input: &str, token: Option<u64>, now: Option<i64>) -> bool {
    let label = |name: &str| container.labels.get(name).map(String::as_str);
    let its_token = label(TOKEN).and_then(|text| text.parse::<u64>().ok());
    let is_replaced = label(INPUT) == Some(input)
        && its_token.zip(token).is_some_and(|(its_token, token)| its_token < token);
    let timeout_s = label(TIMEOUT).and_then(|text| text.parse::<i64>().ok());
    let ends =
        timeout_s.map(|timeout_s| container.created.saturating_add(timeout_s).saturating_add(MARGIN_S));
    is_replaced || ends.zip(now).is_some_and(|(ends, now)| now > ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(labels: &[(&str, &str)]) -> Listed {
        let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Listed { id: "1".into(), created: 1_000, labels }
    }

    #[test]
    fn only_what_nobody_waits_for_is_left_over() {
        let container = listed(&[(INPUT, "orders"), (TOKEN, "7"), (TIMEOUT, "100")]);
        let check = |input, token, now| is_left_over(&container, input, token, Some(now));
        assert!(check("orders", Some(8), 1_000));
        assert!(!check("orders", Some(7), 1_000), "of the same holder");
        assert!(!check("orders", Some(6), 1_000), "of its successor");
        assert!(!check("other", Some(8), 1_000), "tokens of two inputs can't be compared");
        assert!(!check("orders", None, 1_160) && check("orders", None, 1_161));
        assert!(!is_left_over(&container, "orders", None, None));
        assert!(!is_left_over(&listed(&[]), "orders", Some(8), Some(i64::MAX)), "not ours to judge");
        let wrong = listed(&[(INPUT, "orders"), (TOKEN, "x"), (TIMEOUT, "y")]);
        assert!(!is_left_over(&wrong, "orders", Some(8), Some(i64::MAX)));
    }
}
