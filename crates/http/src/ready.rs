//! Whether an input of this replica does its work, and if not, why: a pure verdict over what was seen.

use std::time::Duration;

use serde::Serialize;

/// A cursor with something to do that does not move for so long is stalled.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(3_000);
/// A database that has not answered for so long is out of reach.
pub(crate) const SILENT_AFTER: Duration = Duration::from_millis(3_500);
/// So many failures of a process, with no success since the first, are more than bad luck.
pub(crate) const FAILING_AFTER: u64 = 3;

/// What an input is doing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It connects.
    Starting,
    /// Another replica leads.
    StandingBy,
    /// It reads.
    Leading,
    /// It has ended and is started again.
    Failed,
    /// It runs, and nothing more is known of its kind.
    Running,
    /// The replica stops.
    Draining,
}

/// What was seen of an input.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) role: Role,
    /// What the input last ended with.
    pub(crate) last_error: Option<String>,
    /// How long ago its database answered, and what it said instead since; nothing for an input without one.
    pub(crate) answered: Option<(Duration, Option<String>)>,
    /// Whether its database has answered at all.
    pub(crate) ever_answered: bool,
    /// Events in batches that are not settled.
    pub(crate) in_flight: u64,
    /// How long no batch was settled while some were there.
    pub(crate) unsettled_for: Duration,
    /// Changes that are not recorded as handled.
    pub(crate) lag_changes: u64,
    /// How long the cursor has not moved while there were some.
    pub(crate) unmoved_for: Duration,
    /// Somebody has paused it, or a process of it: that it does not move is as it should be.
    pub(crate) paused: bool,
    /// Keys that are parked.
    pub(crate) parked_keys: u64,
    /// Processes of which every run since the last success failed: how many, and the last error.
    pub(crate) failing: Vec<(String, u64, Option<String>)>,
}

/// Why the input is not ready, in a sentence; `None` when it is.
pub(crate) fn judge(seen: &Seen) -> Option<String> {
    match seen.role {
        Role::Draining => return Some("this replica is stopping".to_owned()),
        Role::Failed => {
            let why = seen.last_error.as_deref().unwrap_or("it ended");
            return Some(format!("it is being started again: {why}"));
        }
        Role::Starting | Role::StandingBy | Role::Leading | Role::Running => {}
    }
    if let Some((since, said)) = &seen.answered
        && *since > SILENT_AFTER
    {
        let why = said.as_deref().map(|said| format!(": {said}")).unwrap_or_default();
        return Some(if seen.ever_answered {
            format!("its database has not answered for {} s{why}", since.as_secs())
        } else {
            format!("its database has not answered yet{why}")
        });
    }
    match seen.role {
        Role::Starting => Some("it is starting".to_owned()),
        Role::Leading | Role::Running => stalled(seen).or_else(|| failing(seen)),
        Role::StandingBy | Role::Failed | Role::Draining => None,
    }
}

fn stalled(seen: &Seen) -> Option<String> {
    if seen.paused {
        return None;
    }
    let failing = seen.failing.first().map(|failing| format!("; {}", failure(failing))).unwrap_or_default();
    if seen.in_flight > 0 && seen.unsettled_for >= STALLED_AFTER {
        return Some(format!(
            "its cursor is stalled: of {} events in hand the oldest batch has not been handled for {} s{failing}",
            seen.in_flight,
            seen.unsettled_for.as_secs()
        ));
    }
    if seen.lag_changes > 0 && seen.unmoved_for >= STALLED_AFTER {
        return Some(format!(
            "its cursor is stalled: it has not moved for {} s, and {} changes wait{failing}",
            seen.unmoved_for.as_secs(),
            seen.lag_changes
        ));
    }
    None
}

fn failing(seen: &Seen) -> Option<String> {
    let waits = seen.parked_keys > 0 || seen.in_flight > 0;
    seen.failing.first().filter(|_| waits).map(failure)
}

fn failure((process, runs, error): &(String, u64, Option<String>)) -> String {
    let why = error.as_deref().map(|error| format!(", the last with: {error}")).unwrap_or_default();
    format!("process {process:?} handles nothing: its last {runs} runs failed{why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading() -> Seen {
        Seen {
            role: Role::Leading,
            last_error: Some("an old one".into()),
            answered: Some((Duration::from_millis(500), None)),
            ever_answered: true,
            in_flight: 0,
            unsettled_for: Duration::from_secs(60),
            lag_changes: 0,
            unmoved_for: Duration::from_secs(60),
            paused: false,
            parked_keys: 0,
            failing: Vec::new(),
        }
    }

    fn reason(change: impl FnOnce(&mut Seen)) -> Option<String> {
        let mut seen = leading();
        change(&mut seen);
        judge(&seen)
    }

    fn says(change: impl FnOnce(&mut Seen), text: &str) {
        let reason = reason(change);
        assert!(reason.as_deref().is_some_and(|reason| reason.contains(text)), "{reason:?}");
    }

    #[test]
    fn a_leader_with_nothing_to_do_is_ready_however_long_it_has_not_moved() {
        assert_eq!(reason(|_| ()), None);
        assert_eq!(reason(|seen| seen.role = Role::StandingBy), None);
        assert_eq!(reason(|seen| seen.role = Role::Running), None);
    }

    #[test]
    fn a_leader_at_work_is_ready_while_it_moves() {
        let moving = |seen: &mut Seen| {
            (seen.in_flight, seen.lag_changes) = (5, 5);
            (seen.unsettled_for, seen.unmoved_for) = (Duration::from_secs(2), Duration::from_secs(2));
        };
        assert_eq!(reason(moving), None);
        says(
            |seen| {
                moving(seen);
                seen.unsettled_for = STALLED_AFTER;
            },
            "of 5 events in hand",
        );
        says(
            |seen| {
                moving(seen);
                seen.unmoved_for = STALLED_AFTER;
            },
            "has not moved for 3 s, and 5 changes wait",
        );
    }

    #[test]
    fn what_a_standby_could_not_do_is_not_asked_of_it() {
        let behind = |seen: &mut Seen| {
            seen.role = Role::StandingBy;
            seen.lag_changes = 1_000;
        };
        assert_eq!(reason(behind), None);
    }

    #[test]
    fn every_other_state_has_its_sentence() {
        says(|seen| seen.role = Role::Starting, "starting");
        says(|seen| seen.role = Role::Draining, "stopping");
        says(|seen| seen.role = Role::Failed, "started again: an old one");
        let silent =
            |seen: &mut Seen| seen.answered = Some((Duration::from_secs(4), Some("no route".into())));
        says(silent, "has not answered for 4 s: no route");
        says(
            |seen| {
                silent(seen);
                seen.role = Role::StandingBy;
            },
            "has not answered for 4 s",
        );
        says(
            |seen| {
                silent(seen);
                seen.ever_answered = false;
            },
            "not answered yet: no route",
        );
    }

    #[test]
    fn a_process_that_handles_nothing_counts_while_something_waits_for_it() {
        let failing = |seen: &mut Seen| seen.failing = vec![("notify".into(), 4, Some("500".into()))];
        assert_eq!(reason(failing), None, "nothing waits any more");
        says(
            |seen| {
                failing(seen);
                seen.parked_keys = 1;
            },
            "\"notify\" handles nothing: its last 4 runs failed, the last with: 500",
        );
    }
}
