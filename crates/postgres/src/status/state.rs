//! What is seen, in a word and a sentence. Pure.

use super::{Coverage, Cursor, DeadLetterCount, Holder, Lag, Parked, Pause, ReplicaStatus, State};
use crate::doctor::duration;
use crate::pauses::MOST_HELD_BACK;

/// Changes that wait, and a cursor that has not moved for so long, are a stall.
const STALLED_AFTER_SECONDS: f64 = 3.0;
/// An error of the holder's is worth telling for so long.
const ERROR_IS_NEWS_SECONDS: f64 = 60.0;

/// What there is to judge by.
pub(super) struct Seen<'a> {
    pub(super) lock_error: Option<String>,
    /// Whether the cursor was written by another cluster.
    pub(super) is_foreign: bool,
    pub(super) holder: Option<&'a Holder>,
    pub(super) standbys: &'a [ReplicaStatus],
    /// Of replicas of all versions.
    pub(super) connections: i64,
    pub(super) cursor: &'a Cursor,
    pub(super) lag: &'a Lag,
    pub(super) pauses: &'a [Pause],
    /// Events that are parked.
    pub(super) held_back: u64,
}

/// The state, and why.
pub(super) fn decide(seen: &Seen<'_>) -> (State, String) {
    if let Some(error) = &seen.lock_error {
        return (State::Unreachable, error.clone());
    }
    if seen.is_foreign {
        let reason = "the cursor was written by another database cluster (a restored dump?), so no replica can read; \
                      `dapper rebase` takes this one for its own";
        return (State::Stalled, reason.to_owned());
    }
    let Some(holder) = seen.holder else {
        return (State::NoHolder, no_holder(seen));
    };
    if let Some(pause) = seen.pauses.iter().find(|pause| pause.process.is_none()) {
        return (State::Paused, format!("{}; {}", paused(pause), waits(seen.lag)));
    }
    if seen.held_back >= MOST_HELD_BACK.unsigned_abs() && !seen.pauses.is_empty() {
        let reason = format!(
            "nothing is read while a process is paused and {} events are held back; {}",
            seen.held_back,
            waits(seen.lag)
        );
        return (State::Paused, reason);
    }
    if seen.lag.changes == 0 {
        return (State::Idle, "nothing waits".to_owned());
    }
    let unmoved = unmoved(holder, seen.cursor);
    if seen.lag.seconds >= STALLED_AFTER_SECONDS && unmoved >= STALLED_AFTER_SECONDS {
        return (State::Stalled, stalled(seen, holder, unmoved));
    }
    (State::Leading, waits(seen.lag))
}

/// For how long nothing was handled by this holder.
fn unmoved(holder: &Holder, cursor: &Cursor) -> f64 {
    let held = holder.for_seconds.unwrap_or(f64::INFINITY);
    // A holder that has just taken over has not had the time yet, unless its predecessors had it and failed.
    let held = if cursor.attempt > 1 { f64::INFINITY } else { held };
    cursor.moved_seconds.unwrap_or(f64::INFINITY).min(held)
}

fn stalled(seen: &Seen<'_>, holder: &Holder, unmoved: f64) -> String {
    let since = match unmoved {
        unmoved if unmoved.is_finite() => format!("for {}", duration(unmoved)),
        _ => "yet".to_owned(),
    };
    let mut text = format!("no event was handled {since}, though {}", waits(seen.lag));
    if seen.cursor.attempt > 1 {
        text.push_str(&format!(
            "; the oldest are in hand for the {}th time: replicas end or die with them",
            seen.cursor.attempt
        ));
    }
    let error = holder.replica.as_ref().and_then(|replica| replica.last_error.as_deref());
    match error {
        Some(error) => text.push_str(&format!("; the holder's last error: {error}")),
        None if seen.cursor.attempt <= 1 => {
            text.push_str("; a process takes long, or the holder hangs: see its log");
        }
        None => {}
    }
    text
}

fn no_holder(seen: &Seen<'_>) -> String {
    let who = match (seen.standbys.len(), seen.connections) {
        (0, 0) => "no replica is connected: start `dapper run`".to_owned(),
        (0, connections) => {
            format!("no replica holds the lease; {connections} connection(s) of replicas are open")
        }
        (standbys, _) => format!("no replica holds the lease, and {standbys} stand by"),
    };
    let error = seen.standbys.iter().rev().find_map(|replica| replica.last_error.as_deref());
    let error = error.map_or_else(String::new, |error| format!("; the last error of one: {error}"));
    format!("{who}; {}{error}", waits(seen.lag))
}

fn waits(lag: &Lag) -> String {
    if lag.changes == 0 {
        return "nothing waits".to_owned();
    }
    let about = if lag.exact { "" } else { "about " };
    let (changes, verb) = if lag.changes == 1 { ("change", "waits") } else { ("changes", "wait") };
    format!("{about}{} {changes} {verb}, the oldest for {}", lag.changes, duration(lag.seconds))
}

fn paused(pause: &Pause) -> String {
    let what = pause.process.as_ref().map_or_else(|| "the input".to_owned(), |it| format!("process {it:?}"));
    let why = pause.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{what} is paused for {} by {}{why}", duration(pause.for_seconds), pause.paused_by)
}

/// What deserves a look although the state may be well.
pub(super) fn warnings(
    parked: &Parked,
    dead_letters: &DeadLetterCount,
    pauses: &[Pause],
    coverage: Coverage,
    holder: Option<&Holder>,
    cursor: &Cursor,
) -> Vec<String> {
    let mut warnings: Vec<String> =
        pauses.iter().filter(|pause| pause.process.is_some()).map(paused).collect();
    for at in &parked.processes {
        let error = at.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        warnings.push(format!(
            "{} key(s) are parked at process {:?}, the oldest for {}{error}",
            at.keys,
            at.process,
            duration(at.oldest_seconds)
        ));
    }
    if dead_letters.letters.count > 0 {
        let least = if dead_letters.letters.exact { "" } else { "at least " };
        warnings.push(format!(
            "{least}{} dead letter(s): see `dapper dead-letters list`, then retry or discard them",
            dead_letters.letters.count
        ));
    }
    if coverage.problems > 0 {
        warnings.push(format!(
            "{} table(s) are not as they should be: `dapper doctor` says which and why",
            coverage.problems
        ));
    }
    if let Some(holder) = holder.filter(|holder| holder.token > cursor.token) {
        warnings.push(format!("the holder (token {}) has not taken the cursor over yet", holder.token));
    }
    let replica = holder.and_then(|holder| holder.replica.as_ref());
    if let Some(replica) = replica
        && let Some(error) = &replica.last_error
        && replica.last_error_seconds.is_some_and(|seconds| seconds < ERROR_IS_NEWS_SECONDS)
    {
        warnings.push(format!("the holder's reading ended before: {error}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(for_seconds: f64) -> Holder {
        Holder {
            id: "h".into(),
            token: 7,
            since: None,
            for_seconds: Some(for_seconds),
            lease_remaining_seconds: Some(9.0),
            replica: None,
        }
    }

    fn cursor(moved_seconds: Option<f64>, attempt: u32) -> Cursor {
        Cursor { token: 7, handled: 10, moved_seconds, attempt }
    }

    fn judged(holder: Option<&Holder>, cursor: &Cursor, changes: u64, seconds: f64) -> (State, String) {
        decide(&Seen {
            lock_error: None,
            is_foreign: false,
            holder,
            standbys: &[],
            connections: 0,
            cursor,
            lag: &Lag { changes, exact: true, seconds },
            pauses: &[],
            held_back: 0,
        })
    }

    #[test]
    fn a_stall_is_changes_that_wait_while_nothing_is_handled() {
        let old = holder(100.0);
        let state = |cursor: Cursor, changes, seconds| judged(Some(&old), &cursor, changes, seconds).0;
        assert_eq!(state(cursor(Some(50.0), 1), 0, 0.0), State::Idle);
        assert_eq!(state(cursor(Some(50.0), 1), 5, 1.0), State::Leading, "they have just come");
        assert_eq!(state(cursor(Some(0.5), 1), 5, 90.0), State::Leading, "it catches up");
        assert_eq!(state(cursor(Some(3.5), 1), 5, 3.5), State::Stalled);
        assert_eq!(state(cursor(None, 1), 5, 3.5), State::Stalled, "it never moved");
        let new = holder(0.5);
        assert_eq!(
            judged(Some(&new), &cursor(Some(60.0), 1), 5, 60.0).0,
            State::Leading,
            "it took over just now"
        );
        let (state, reason) = judged(Some(&new), &cursor(Some(60.0), 4), 5, 60.0);
        assert_eq!(state, State::Stalled, "holder after holder fails on the same");
        assert!(reason.contains("for the 4th time"), "{reason}");
    }

    #[test]
    fn without_a_holder_it_says_who_is_there() {
        let (state, reason) = judged(None, &cursor(None, 0), 12, 4.0);
        assert_eq!(state, State::NoHolder);
        let expected = "no replica is connected: start `dapper run`; 12 changes wait, the oldest for 4 s";
        assert_eq!(reason, expected);
    }
}
