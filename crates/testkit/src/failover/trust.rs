//! How long each replica trusted its lease, from its own log.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::history::Trust;
use crate::{LogLine, Replica};

/// The terms of one replica, on the clock since boot that it trusts them by. Each begins when it was logged as granted,
/// and ends when it was logged as over, or else when the trust of its last renewal runs out. `killed` is when a `kill -9`
/// had been sent: after that no instruction of the replica's runs, save for the microseconds that an interrupt takes.
pub(super) fn terms(replica: &Replica, killed: Option<Duration>) -> Vec<Trust> {
    let holder = format!("replica {}", replica.number());
    let mut terms: Vec<Trust> = Vec::new();
    for line in replica.log().lines() {
        let Some(token) = number(&line, "token") else { continue };
        let time = |field| number(&line, field).map(Duration::from_nanos);
        let (at, until) = (time("at_ns"), time("valid_until_ns"));
        match (line.message(), at, until) {
            ("lease granted", Some(from), Some(until)) => {
                terms.push(Trust { holder: holder.clone(), token, from, until });
            }
            ("lease renewed", _, Some(until)) => end(&mut terms, token, |term| term.until = until),
            ("lease lost" | "lease ended by its holder", Some(at), _) => {
                end(&mut terms, token, |term| term.until = term.until.min(at));
            }
            _ => {}
        }
    }
    if let (Some(last), Some(killed)) = (terms.last_mut(), killed) {
        last.until = last.until.min(killed);
    }
    terms
}

/// Changes the end of the term with this token.
fn end(terms: &mut [Trust], token: u64, change: impl FnOnce(&mut Trust)) {
    if let Some(term) = terms.iter_mut().rfind(|term| term.token == token) {
        change(term);
    }
}

fn number(line: &LogLine, field: &str) -> Option<u64> {
    line.field(field)?.as_u64()
}

/// The clock since boot, suspended time included, as leases are trusted by.
pub(super) fn now() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    time.expect("Linux has this clock, and its number and the pointer are right")
}
