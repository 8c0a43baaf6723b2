//! Whether what was received follows from what was committed.

use std::collections::{HashMap, HashSet};

use super::ledger::{BLOCK_KEYS, Block, CYCLE, Ledger, Table};
use super::sink::{Counts, Key};
use crate::history::Operation;

const FINDINGS: usize = 20;

/// What a run found. What [`violations`](Self::violations) names must be zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Changes of committed transactions.
    pub committed: u64,
    /// Changes of transactions that were acknowledged and then lost with a primary: by a promotion, or, committed
    /// asynchronously, by a crash.
    pub rewound: u64,
    /// Of these, events that an old primary's holder had delivered before the promotion.
    pub rewound_delivered: u64,
    /// Requests.
    pub deliveries: u64,
    /// Different events taken.
    pub received: u64,
    /// Repeats that said so.
    pub repeats_marked: u64,
    /// Requests of replaced holders, refused by their token.
    pub stale_refused: u64,
    /// Committed changes of which no event came.
    pub lost: u64,
    /// Events of changes that were not committed.
    pub phantom: u64,
    /// Repeats that did not say so.
    pub repeats_unmarked: u64,
    /// Events that came in another order than the changes of their key.
    pub out_of_order: u64,
    /// Writes of the cursor or the lease by a session that had been replaced.
    pub stale_accepted: u64,
    /// Statements of the application that failed though no fault explains it.
    pub failed_statements: u64,
    /// Events without an id, a token or a time.
    pub malformed: u64,
    /// Replicas that ended, or broke, by themselves.
    pub broken_replicas: u64,
    /// Committed changes that took no effect through the inbox, of those that go there.
    pub effects_missing: u64,
    /// Events that took effect twice through the inbox.
    pub double_effects: u64,
    /// Effects through the inbox.
    pub effects: u64,
    /// Events that failed and were parked; after a promotion some of them may count twice.
    pub parked: u64,
    /// Events still parked when everything had come.
    pub parked_left: u64,
    /// Events that were given up as dead letters.
    pub dead_letters: u64,
    /// The first findings in words.
    pub findings: Vec<String>,
}

/// What the database says in the end.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// The transactions that are there.
    pub(super) transactions: HashSet<i64>,
    /// Keys of follow-ups that are there.
    pub(super) followups: Vec<u64>,
    /// How many promotions there were.
    pub(super) timeline: u32,
    /// How often each key took effect through the inbox.
    pub(super) effects: HashMap<(Table, u64), u64>,
    /// Effects of events that had had one.
    pub(super) doubles: u64,
    /// Events that were parked, are still parked, and were given up.
    pub(super) parked: u64,
    pub(super) parked_left: u64,
    pub(super) dead_letters: u64,
    /// What the audit found, in words.
    pub(super) stale: Vec<String>,
}

/// What became of one change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Must,
    /// Lost with a primary, perhaps after it had been delivered.
    May,
    MustNot,
}

impl Verdict {
    /// What was broken, by name.
    #[must_use]
    pub fn violations(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("lost", self.lost),
            ("received, though not committed", self.phantom),
            ("repeats unmarked", self.repeats_unmarked),
            ("out of order per key", self.out_of_order),
            ("stale tokens accepted", self.stale_accepted),
            ("application statements failed", self.failed_statements),
            ("malformed events", self.malformed),
            ("replicas broken", self.broken_replicas),
            ("without effect through the inbox", self.effects_missing),
            ("double effects through the inbox", self.double_effects),
            ("dead letters", self.dead_letters),
            ("left parked", self.parked_left),
        ];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations().is_empty()
    }

    fn find(&mut self, finding: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS {
            self.findings.push(finding());
        }
    }
}

/// Judges one link.
pub(super) fn judge(
    ledger: &Ledger,
    truth: &Truth,
    keys: &HashMap<(Table, u64), Key>,
    counts: &Counts,
) -> Verdict {
    let mut verdict = Verdict {
        deliveries: counts.arrivals,
        received: counts.events,
        repeats_marked: counts.repeats_marked,
        repeats_unmarked: counts.repeats_unmarked,
        out_of_order: counts.out_of_order,
        stale_refused: counts.stale_refused,
        malformed: counts.malformed,
        stale_accepted: truth.stale.len() as u64,
        failed_statements: ledger.failed_statements.len() as u64,
        effects: truth.effects.values().sum(),
        parked: truth.parked,
        parked_left: truth.parked_left,
        dead_letters: truth.dead_letters,
        ..Verdict::default()
    };
    let mut known: HashMap<(Table, u64), &Block> = HashMap::new();
    for block in &ledger.blocks {
        known.insert((block.table, block.first / BLOCK_KEYS), block);
        judge_block(block, ledger, truth, keys, &mut verdict);
    }
    judge_contended(ledger, truth, keys, &mut verdict);
    verdict.double_effects += truth.doubles;
    for &id in &truth.followups {
        verdict.committed += 1;
        if !keys.contains_key(&(Table::FOLLOWUPS, id)) {
            verdict.lost += 1;
            verdict.find(|| format!("lost: follow-up {id}"));
        }
        if !truth.effects.contains_key(&(Table::FOLLOWUPS, id)) {
            verdict.effects_missing += 1;
            verdict.find(|| format!("without effect: follow-up {id}"));
        }
    }
    let followups: HashSet<u64> = truth.followups.iter().copied().collect();
    for (&(table, number), key) in keys {
        if table == Table::FOLLOWUPS && truth.timeline > 0 {
            // A promotion takes back follow-ups, whose numbers are then used again.
            let present = u64::from(followups.contains(&number));
            verdict.rewound_delivered += u64::from(key.count).saturating_sub(present);
            continue;
        }
        let expected = match table {
            Table::COUNTERS => ledger.contended.contains_key(&(table, number)),
            Table::FOLLOWUPS => followups.contains(&number) && key.count == 1,
            _ => known
                .get(&(table, number / BLOCK_KEYS))
                .is_some_and(|block| number - block.first < u64::from(block.count)),
        };
        if !expected {
            verdict.phantom += u64::from(key.count);
            verdict.find(|| format!("not committed: {} {number}: {:?}", table.name(), key.operations()));
        }
    }
    for finding in truth.stale.iter().chain(&ledger.failed_statements) {
        verdict.find(|| finding.clone());
    }
    verdict
}

fn fate(ledger: &Ledger, truth: &Truth, change: u32) -> Fate {
    let transaction = ledger.transactions[change as usize];
    if truth.transactions.contains(&transaction.id) {
        Fate::Must
    } else if transaction.timeline < truth.timeline {
        Fate::May
    } else {
        Fate::MustNot
    }
}

fn judge_block(
    block: &Block,
    ledger: &Ledger,
    truth: &Truth,
    keys: &HashMap<(Table, u64), Key>,
    verdict: &mut Verdict,
) {
    let fates: Vec<Fate> = block.changes.iter().map(|&change| fate(ledger, truth, change)).collect();
    let count = |wanted: Fate| fates.iter().filter(|fate| **fate == wanted).count() as u64;
    let (must, may) = (count(Fate::Must), count(Fate::May));
    verdict.committed += must * u64::from(block.count);
    for (&change, &fate) in block.changes.iter().zip(&fates) {
        let gone = fate != Fate::Must && ledger.transactions[change as usize].acknowledged;
        verdict.rewound += if gone { u64::from(block.count) } else { 0 };
    }
    for number in block.first..block.first + u64::from(block.count) {
        let key = keys.get(&(block.table, number)).copied().unwrap_or_default();
        let got = u64::from(key.count);
        if got >= must && got <= must + may && key.is_regular() {
            verdict.rewound_delivered += got - must;
            continue;
        }
        let expected: Vec<Operation> = CYCLE.iter().copied().cycle().take(block.changes.len()).collect();
        if got < must {
            verdict.lost += must - got;
        } else if got > must + may {
            verdict.phantom += got - must - may;
        } else {
            verdict.out_of_order += 1;
        }
        verdict.find(|| {
            let (table, got) = (block.table.name(), key.operations());
            format!("{table} {number}: {must} committed, {may} perhaps, of {expected:?}; came {got:?}")
        });
    }
}

/// Rows that several writers change: only how many changes there were is known, and their order by the time of capture.
fn judge_contended(ledger: &Ledger, truth: &Truth, keys: &HashMap<(Table, u64), Key>, verdict: &mut Verdict) {
    for (&(table, number), changes) in &ledger.contended {
        let fates = changes.iter().map(|&change| fate(ledger, truth, change));
        let (mut must, mut may) = (0_u64, 0_u64);
        for fate in fates {
            must += u64::from(fate == Fate::Must);
            may += u64::from(fate == Fate::May);
        }
        verdict.committed += must;
        let got = keys.get(&(table, number)).map_or(0, |key| u64::from(key.count));
        verdict.lost += must.saturating_sub(got);
        verdict.phantom += got.saturating_sub(must + may);
        if got < must || got > must + may {
            verdict
                .find(|| format!("{} {number}: {must} committed, {may} perhaps, {got} came", table.name()));
        }
        // What takes a change back takes its effect back, too: they are in one server, one after the other.
        let effects = truth.effects.get(&(table, number)).copied().unwrap_or(0);
        verdict.effects_missing += must.saturating_sub(effects);
        verdict.double_effects += effects.saturating_sub(must);
        if effects != must {
            verdict.find(|| format!("{} {number}: {must} committed, {effects} took effect", table.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Transaction;
    use super::super::sink::Link;
    use super::*;

    /// One key with three changes, in transactions 0, 1 and 2 on timelines 0, 0 and 1.
    fn ledger() -> Ledger {
        let transaction = |id, timeline| Transaction { id, timeline, acknowledged: true };
        Ledger {
            transactions: vec![transaction(0, 0), transaction(1, 0), transaction(2, 1)],
            blocks: vec![Block { table: Table::ORDERS, first: 0, count: 1, changes: vec![0, 1, 2] }],
            ..Ledger::default()
        }
    }

    fn judged(present: &[i64], came: &[&str]) -> Verdict {
        let link = Link::default();
        for (position, operation) in came.iter().enumerate() {
            let body = format!(
                r#"{{"location":"orders","operation":"{operation}","id":"0","trigger":"chaos","attempt":1,"token":1,
                  "event_id":"6f0c6a52-0000-4000-8000-000000000000/{position}",
                  "captured_at":"2026-01-01T12:00:0{position}.000000Z"}}"#
            );
            link.arrive(body.as_bytes());
        }
        let truth =
            Truth { transactions: present.iter().copied().collect(), timeline: 1, ..Truth::default() };
        judge(&ledger(), &truth, &link.keys(), &link.counts())
    }

    #[test]
    fn what_is_there_must_come_in_order() {
        assert!(judged(&[0, 1, 2], &["create", "update", "delete"]).is_clean());
        assert_eq!(judged(&[0, 1, 2], &["create", "update"]).violations(), [("lost", 1)]);
        assert_eq!(
            judged(&[0, 1, 2], &["create", "delete", "update"]).violations(),
            [("out of order per key", 1)]
        );
        assert_eq!(judged(&[0, 1, 2], &[]).violations(), [("lost", 3)]);
    }

    #[test]
    fn what_a_promotion_lost_may_have_come_and_what_a_rollback_undid_must_not() {
        let verdict = judged(&[0], &["create", "update"]);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.rewound, verdict.rewound_delivered), (2, 1));
        assert!(judged(&[0], &["create"]).is_clean());
        assert_eq!(
            judged(&[0], &["create", "update", "delete"]).violations(),
            [("received, though not committed", 1)]
        );
    }
}
