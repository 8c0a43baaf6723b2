//! How long each replica trusted its lease, from its own log.

use std::time::Duration;

use jiff::Timestamp;

use crate::history::Trust;
use crate::{LogLine, Replica};

/// The terms of one replica. Each begins when it was logged as granted. It ends when it was logged as over, and at the
/// latest so long after its last renewal was logged as a renewal is trusted, since that trust counts from when the
/// renewal was sent. `killed` is when a `kill -9` had been delivered: after that no instruction of the replica's runs.
pub(super) fn terms(replica: &Replica, killed: Option<Duration>, trust: Duration) -> Vec<Trust> {
    let holder = format!("replica {}", replica.number());
    let mut terms: Vec<Trust> = Vec::new();
    for line in replica.log().lines() {
        let (Some(token), Some(at)) = (token(&line), written_at(&line)) else { continue };
        let until = at + trust;
        match line.message() {
            "lease granted" => terms.push(Trust { holder: holder.clone(), token, from: at, until }),
            message => {
                let Some(term) = terms.iter_mut().rfind(|term| term.token == token) else { continue };
                match message {
                    "lease renewed" => term.until = until,
                    "lease lost" | "lease ended by its holder" => term.until = term.until.min(at),
                    _ => {}
                }
            }
        }
    }
    if let (Some(last), Some(killed)) = (terms.last_mut(), killed) {
        last.until = last.until.min(killed);
    }
    terms
}

fn token(line: &LogLine) -> Option<u64> {
    line.field("token")?.as_u64()
}

/// When the replica wrote the line, by the machine's clock.
fn written_at(line: &LogLine) -> Option<Duration> {
    let at: Timestamp = line.json.get("timestamp")?.as_str()?.parse().ok()?;
    Duration::try_from(at.as_duration()).ok()
}

/// The machine's clock, as it stands in the logs.
pub(super) fn now() -> Duration {
    Duration::try_from(Timestamp::now().as_duration()).unwrap_or_default()
}
