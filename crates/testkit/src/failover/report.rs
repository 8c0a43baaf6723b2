//! From what was recorded to a verdict.

use std::time::Duration;

use super::stage::Round;
use super::{Case, FailoverOptions, Locks};
use crate::history::{
    Delivery, Report, RowWrite, Trust, Writes, check, fenced, longest_overlap, stale_writes,
    tokens_not_above_earlier,
};

/// Findings kept of one case.
const FINDINGS_LIMIT: usize = 20;

/// What one group of replicas left behind.
#[derive(Clone, Debug)]
pub struct History {
    /// What the trickle wrote.
    pub writes: Writes,
    /// What the replicas handled, in the order in which they did.
    pub deliveries: Vec<Delivery>,
    /// How long each holder trusted each term.
    pub trust: Vec<Trust>,
    /// The writes of the cursor row that took effect, in that order.
    pub row_writes: Vec<RowWrite>,
    /// How many writes of the cursor row changed nothing.
    pub refused_writes: usize,
    /// Replicas that did not end as they were to.
    pub bad_exits: Vec<String>,
}

/// What is wrong, and what could have been, with one group of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The longest time that two holders trusted their leases at once.
    pub overlap: Duration,
    /// How many terms holders trusted.
    pub terms: usize,
    /// Terms whose token was not above all before.
    pub tokens_reused: usize,
    /// Writes of the cursor row, and events at a sink that refuses lower tokens, that were accepted after a later
    /// holder's.
    pub stale_accepted: usize,
    /// Writes of the cursor row that its fence refused.
    pub stale_refused_by_row: usize,
    /// Events that reached the sink under a lower token than one before, and which it refused.
    pub late_events: usize,
    /// Of what the sink accepted.
    pub report: Report,
    /// Replicas that did not end as they were to.
    pub bad_exits: Vec<String>,
}

/// What came of all runs of one case.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// Which.
    pub case: Case,
    /// Where the leases were.
    pub locks: Locks,
    /// The time to live of the leases.
    pub ttl: Duration,
    /// The runs, the shortest takeover first.
    pub rounds: Vec<Round>,
    /// All groups together: counts are added up, the longest overlap is kept.
    pub verdict: Verdict,
}

/// Judges what one group of replicas left behind.
#[must_use]
pub fn judge(history: &History) -> Verdict {
    let (accepted, late_events) = fenced(history.deliveries.clone());
    let report = check(&history.writes, &accepted);
    Verdict {
        overlap: longest_overlap(&history.trust),
        terms: history.trust.len(),
        tokens_reused: tokens_not_above_earlier(&history.trust),
        stale_accepted: stale_writes(&history.row_writes) + report.stale,
        stale_refused_by_row: history.refused_writes,
        late_events,
        report,
        bad_exits: history.bad_exits.clone(),
    }
}

impl CaseReport {
    pub(super) fn new(case: Case, options: &FailoverOptions, mut rounds: Vec<Round>) -> Self {
        rounds.sort_by_key(|round| round.takeover);
        let FailoverOptions { locks, ttl, .. } = *options;
        Self { case, locks, ttl, rounds, verdict: Verdict::default() }
    }

    pub(super) fn add(&mut self, other: Verdict) {
        let sum = &mut self.verdict;
        sum.overlap = sum.overlap.max(other.overlap);
        sum.terms += other.terms;
        sum.tokens_reused += other.tokens_reused;
        sum.stale_accepted += other.stale_accepted;
        sum.stale_refused_by_row += other.stale_refused_by_row;
        sum.late_events += other.late_events;
        sum.bad_exits.extend(other.bad_exits);
        let (all, one) = (&mut sum.report, other.report);
        all.committed += one.committed;
        all.deliveries += one.deliveries;
        all.received += one.received;
        all.lost += one.lost;
        all.phantom += one.phantom;
        all.repeats_marked += one.repeats_marked;
        all.marked_first += one.marked_first;
        all.repeats_unmarked += one.repeats_unmarked;
        all.out_of_order += one.out_of_order;
        all.stale += one.stale;
        all.conflicting += one.conflicting;
        all.malformed += one.malformed;
        all.failed_statements += one.failed_statements;
        all.findings.extend(one.findings);
        all.findings.truncate(FINDINGS_LIMIT);
    }

    /// The takeover that so many of a hundred runs do not exceed, by the nearest rank.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.rounds.iter().map(|round| round.takeover).collect::<Vec<_>>(), percent)
    }

    /// The medians of the stages of a takeover, counted from the fault: the old holder's release, the new one's grant.
    #[must_use]
    pub fn medians(&self) -> [Option<Duration>; 2] {
        let median = |of: fn(&Round) -> Option<Duration>| {
            let mut times: Vec<Duration> = self.rounds.iter().filter_map(of).collect();
            times.sort_unstable();
            (!times.is_empty()).then(|| percentile(&times, 50))
        };
        [median(|round| round.released), median(|round| round.granted)]
    }

    /// Promises that were broken, whatever the machine: in words, none when all is well.
    #[must_use]
    pub fn broken_promises(&self) -> Vec<String> {
        let Verdict { overlap, terms, tokens_reused, stale_accepted, late_events, report, bad_exits, .. } =
            &self.verdict;
        let mut broken = Vec::new();
        if !overlap.is_zero() {
            broken.push(format!("two holders trusted their leases at once for {overlap:?}"));
        }
        let repeats_nothing = usize::from(self.case.repeats_nothing());
        let late = if self.case.may_bring_late() { 0 } else { *late_events };
        for (count, what) in [
            (*tokens_reused, "tokens were not above those before"),
            (*stale_accepted, "stale writes were accepted"),
            (late, "events of a replaced holder came after its successor's"),
            (report.lost, "events were lost"),
            (report.phantom, "events came though nothing was committed"),
            (report.repeats_unmarked, "repeats did not say so"),
            (report.repeats_marked * repeats_nothing, "events came again after a clean stop"),
            (
                report.marked_first * repeats_nothing,
                "events said after a clean stop that they might be repeats",
            ),
            (report.out_of_order, "events were out of order"),
            (report.conflicting, "event ids were used twice"),
            (report.malformed, "events had no id or no time"),
            (report.failed_statements, "statements of the writer failed"),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        if report.received == 0 || *terms <= self.rounds.len() {
            // Whoever sees nothing finds nothing wrong.
            broken.push(format!("only {} events and {terms} terms were seen", report.received));
        }
        broken.extend(bad_exits.iter().cloned());
        broken
    }

    /// Takeovers that took longer than they should on a quiet machine, in words.
    #[must_use]
    pub fn missed_bounds(&self) -> Vec<String> {
        let Some(bounds) = self.case.bounds(self.locks, self.ttl) else { return Vec::new() };
        [("p50", 50, bounds.p50), ("p99", 99, bounds.p99), ("max", 100, bounds.max)]
            .into_iter()
            .filter(|(_, percent, bound)| self.percentile(*percent) > *bound)
            .map(|(name, percent, bound)| {
                format!("{name} of takeover is {:?}, above {bound:?}", self.percentile(percent))
            })
            .collect()
    }
}

/// Of sorted times.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::history::{Change, Operation, Outcome, Transaction};

    const MS: Duration = Duration::from_millis(1);

    fn delivery(id: u64, token: u64) -> Delivery {
        Delivery {
            at: Instant::now(),
            event_id: Some(format!("e{id}")),
            token: Some(token),
            attempt: Some(1),
            table: "ticks".to_owned(),
            key: id.to_string(),
            operation: Operation::Create,
            captured_at: None,
        }
    }

    fn trust(token: u64, from: u32, until: u32) -> Trust {
        Trust { holder: format!("of {token}"), token, from: MS * from, until: MS * until }
    }

    /// Two terms that kept apart, and three events.
    fn good() -> History {
        let transactions = (1..=3).map(|id: u64| Transaction {
            outcome: Outcome::Committed,
            changes: vec![Change::new("ticks", id.to_string(), Operation::Create)],
        });
        History {
            writes: Writes { transactions: transactions.collect(), ..Writes::default() },
            deliveries: vec![delivery(1, 1), delivery(2, 2), delivery(3, 2)],
            trust: vec![trust(1, 0, 10), trust(2, 11, 20)],
            row_writes: vec![RowWrite { session: 7, token: 1 }, RowWrite { session: 8, token: 2 }],
            refused_writes: 1,
            bad_exits: Vec::new(),
        }
    }

    fn report(case: Case, history: &History) -> CaseReport {
        let round = Round { takeover: MS * 8, released: None, granted: Some(MS * 3) };
        let options = FailoverOptions {
            program: "dapper".into(),
            locks: Locks::Postgres,
            ttl: Duration::from_secs(10),
            runs: 1,
            parallel: 1,
            after_run: Arc::new(|| {}),
        };
        let mut report = CaseReport::new(case, &options, vec![round]);
        report.add(judge(history));
        report
    }

    #[test]
    fn terms_that_kept_apart_are_green() {
        let report = report(Case::Kill, &good());
        assert_eq!(report.broken_promises(), Vec::<String>::new());
        assert_eq!(report.missed_bounds(), Vec::<String>::new());
        assert_eq!(report.verdict.stale_refused_by_row, 1);
    }

    #[test]
    fn each_broken_promise_is_red() {
        type Break = (fn(&mut History), &'static str);
        let breaks: [Break; 9] = [
            (|history| history.trust.truncate(1), "only 3 events and 1 terms were seen"),
            (|history| history.trust[0].until = MS * 12, "two holders trusted their leases at once for 1ms"),
            (|history| history.trust[1].token = 1, "1 tokens were not above those before"),
            (
                |history| history.row_writes.push(RowWrite { session: 7, token: 2 }),
                "1 stale writes were accepted",
            ),
            (|history| history.deliveries.truncate(2), "1 events were lost"),
            (
                |history| history.deliveries.swap(0, 1),
                "1 events of a replaced holder came after its successor's",
            ),
            (|history| history.deliveries.push(delivery(3, 2)), "1 repeats did not say so"),
            (|history| history.deliveries.push(delivery(4, 2)), "1 events came though nothing was committed"),
            (|history| history.bad_exits.push("replica 0 ended badly".to_owned()), "replica 0 ended badly"),
        ];
        for (change, wanted) in breaks {
            let mut history = good();
            change(&mut history);
            let broken = report(Case::Kill, &history).broken_promises();
            assert!(broken.iter().any(|text| text == wanted), "{wanted}: {broken:?}");
        }
    }

    #[test]
    fn what_a_frozen_holder_had_in_its_hands_must_come_again() {
        let mut history = good();
        history.deliveries.insert(2, delivery(1, 1));
        // Its late line is a repeat of one that was accepted, so nothing is missing.
        assert_eq!(report(Case::Freeze, &history).broken_promises(), Vec::<String>::new());
        history.deliveries.remove(0);
        assert_eq!(report(Case::Freeze, &history).broken_promises(), ["1 events were lost"]);
    }

    #[test]
    fn nothing_comes_again_after_a_clean_stop_marked_or_not() {
        let marked = |delivery: Delivery| Delivery { attempt: Some(2), ..delivery };
        for (more, wanted) in [
            (marked(delivery(3, 2)), "1 events came again after a clean stop"),
            (marked(delivery(4, 2)), "1 events said after a clean stop that they might be repeats"),
        ] {
            let mut history = good();
            history.deliveries.push(more);
            for (case, is_broken) in [(Case::Stop, true), (Case::StopStart, true), (Case::Kill, false)] {
                let broken = report(case, &history).broken_promises();
                assert_eq!(broken.iter().any(|text| text == wanted), is_broken, "{case}: {broken:?}");
            }
        }
    }

    #[test]
    fn slow_takeovers_are_named_with_their_bound() {
        let mut report = report(Case::Stop, &good());
        report.rounds[0].takeover = MS * 70;
        let missed = report.missed_bounds();
        assert_eq!(missed, ["p50 of takeover is 70ms, above 10ms", "p99 of takeover is 70ms, above 50ms"]);
        report.case = Case::Freeze;
        report.rounds[0].takeover = MS * 10_501;
        assert_eq!(report.missed_bounds(), ["max of takeover is 10.501s, above 10.5s"]);
    }

    #[test]
    fn percentiles_are_by_the_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(|ms| MS * ms).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&times, percent)), [MS * 100, MS * 198, MS * 200]);
        assert_eq!(percentile(&times[..1], 50), MS);
    }
}
