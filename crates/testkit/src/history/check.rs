//! The check of deliveries against writes.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::{Delivery, Operation, Outcome, Report, Writes};

const FINDINGS_LIMIT: usize = 20;

type Row<'a> = (&'a str, &'a str);

/// Compares what was delivered with what was committed.
#[must_use]
pub fn check(writes: &Writes, deliveries: &[Delivery]) -> Report {
    let mut report = Report {
        committed: writes.committed(),
        deliveries: deliveries.len(),
        failed_statements: writes.failed_statements.len(),
        ..Report::default()
    };
    for failure in &writes.failed_statements {
        report.find(|| format!("failed statement: {failure}"));
    }
    let expected = expected(writes);
    let first = first_deliveries(deliveries, &mut report);
    report.received = first.values().map(Vec::len).sum();
    for (row, wanted) in &expected {
        let contended = writes.contended.contains(row.0);
        let got = first.get(row).map_or(&[][..], Vec::as_slice);
        compare(row, wanted, got, contended, &mut report);
    }
    for (row, got) in first.iter().filter(|(row, _)| !expected.contains_key(*row)) {
        report.phantom += got.len();
        report.find(|| format!("{row:?}: events, and nothing was committed: {:?}", operations(got)));
    }
    report
}

/// One operation that was committed for certain, or perhaps.
#[derive(Clone, Copy)]
struct Wanted {
    operation: Operation,
    certain: bool,
}

fn expected(writes: &Writes) -> BTreeMap<Row<'_>, Vec<Wanted>> {
    let mut expected: BTreeMap<Row<'_>, Vec<Wanted>> = BTreeMap::new();
    for transaction in writes.transactions.iter().filter(|one| one.outcome != Outcome::RolledBack) {
        let certain = transaction.outcome == Outcome::Committed;
        for change in &transaction.changes {
            let row = expected.entry((&change.table, &change.key)).or_default();
            row.push(Wanted { operation: change.operation, certain });
        }
    }
    expected
}

/// The deliveries that are not repeats, by row and in order of arrival; judges the repeats, ids and tokens.
fn first_deliveries<'a>(
    deliveries: &'a [Delivery],
    report: &mut Report,
) -> BTreeMap<Row<'a>, Vec<&'a Delivery>> {
    let mut rows: BTreeMap<Row<'a>, Vec<&'a Delivery>> = BTreeMap::new();
    let mut seen: HashMap<&str, &Delivery> = HashMap::with_capacity(deliveries.len());
    let mut term = None;
    for delivery in deliveries {
        if delivery.token < term {
            report.stale += 1;
        }
        term = term.max(delivery.token);
        let Some(id) = delivery.event_id.as_deref() else {
            report.malformed += 1;
            report.find(|| format!("no event id: {delivery:?}"));
            rows.entry((&delivery.table, &delivery.key)).or_default().push(delivery);
            continue;
        };
        let Some(first) = seen.get(id) else {
            report.marked_first += usize::from(delivery.attempt.is_some_and(|attempt| attempt >= 2));
            seen.insert(id, delivery);
            rows.entry((&delivery.table, &delivery.key)).or_default().push(delivery);
            continue;
        };
        if (&first.table, &first.key, first.operation) != (&delivery.table, &delivery.key, delivery.operation)
        {
            report.conflicting += 1;
            report.find(|| format!("one id, two events: {first:?} and {delivery:?}"));
        } else if delivery.attempt.is_some_and(|attempt| attempt >= 2) {
            report.repeats_marked += 1;
        } else {
            report.repeats_unmarked += 1;
            report.find(|| format!("a repeat that does not say so: {delivery:?}"));
        }
    }
    rows
}

fn compare(row: &Row<'_>, wanted: &[Wanted], got: &[&Delivery], contended: bool, report: &mut Report) {
    let (mut lost, mut phantom, mut common) = (0, 0, 0);
    for operation in [Operation::Create, Operation::Update, Operation::Delete, Operation::Other] {
        let possible = wanted.iter().filter(|one| one.operation == operation).count();
        let certain = wanted.iter().filter(|one| one.operation == operation && one.certain).count();
        let came = got.iter().filter(|one| one.operation == operation).count();
        lost += certain.saturating_sub(came);
        phantom += came.saturating_sub(possible);
        common += came.min(possible);
    }
    let misplaced = if contended { 0 } else { common - longest_common_order(wanted, got) };
    let backwards = if contended { 0 } else { backwards(got, report) };
    report.lost += lost;
    report.phantom += phantom;
    // A swapped pair is one event out of order, whichever of the two ways shows it.
    report.out_of_order += misplaced.max(backwards);
    if lost + phantom + misplaced + backwards > 0 {
        report.find(|| {
            let wanted: Vec<Operation> = wanted.iter().map(|one| one.operation).collect();
            format!(
                "{row:?}: lost {lost}, phantom {phantom}, out of order {}: committed {wanted:?}, came {:?}",
                misplaced.max(backwards),
                operations(got)
            )
        });
    }
}

/// How many events were captured before the one that came before them. Operations alone cannot tell an update from
/// the next.
fn backwards(got: &[&Delivery], report: &mut Report) -> usize {
    let mut count = 0;
    let mut latest: Option<Timestamp> = None;
    for delivery in got {
        let time = match delivery.captured_at.as_deref().map(str::parse::<Timestamp>) {
            Some(Ok(time)) => time,
            None => continue,
            Some(Err(_)) => {
                report.malformed += 1;
                report.find(|| format!("no time: {delivery:?}"));
                continue;
            }
        };
        count += usize::from(Some(time) < latest);
        latest = latest.max(Some(time));
    }
    count
}

/// The length of the longest sequence of operations that both hold in order.
fn longest_common_order(wanted: &[Wanted], got: &[&Delivery]) -> usize {
    let same = |(wanted, got): (&Wanted, &&Delivery)| wanted.operation == got.operation;
    let prefix = wanted.iter().zip(got).take_while(|&pair| same(pair)).count();
    let (wanted, got) = (&wanted[prefix..], &got[prefix..]);
    // One row of the usual table: lengths for the wanted operations so far against each prefix of those that came.
    let mut lengths = vec![0_usize; got.len() + 1];
    for one in wanted {
        let mut diagonal = 0;
        for (index, other) in got.iter().enumerate() {
            let above = lengths[index + 1];
            lengths[index + 1] =
                if one.operation == other.operation { diagonal + 1 } else { above.max(lengths[index]) };
            diagonal = above;
        }
    }
    prefix + lengths[got.len()]
}

fn operations(deliveries: &[&Delivery]) -> Vec<Operation> {
    deliveries.iter().map(|delivery| delivery.operation).collect()
}

impl Report {
    fn find(&mut self, finding: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS_LIMIT {
            self.findings.push(finding());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Change, Transaction, takeover};
    use super::*;
    use crate::history::Operation::{Create, Delete, Other, Update};

    fn writes(transactions: &[(Outcome, &[(&str, Operation)])]) -> Writes {
        let transactions = transactions.iter().map(|(outcome, changes)| Transaction {
            outcome: *outcome,
            changes: changes.iter().map(|&(key, operation)| Change::new("t", key, operation)).collect(),
        });
        Writes { transactions: transactions.collect(), ..Writes::default() }
    }

    /// One row's life, committed operation by operation.
    fn life(operations: &[Operation]) -> Writes {
        let changes: Vec<(&str, Operation)> = operations.iter().map(|&operation| ("1", operation)).collect();
        writes(&[(Outcome::Committed, &changes)])
    }

    fn delivery(id: &str, key: &str, operation: Operation) -> Delivery {
        Delivery {
            at: Instant::now(),
            event_id: Some(id.to_owned()),
            token: Some(1),
            attempt: Some(1),
            table: "t".to_owned(),
            key: key.to_owned(),
            operation,
            captured_at: None,
        }
    }

    fn deliveries(operations: &[Operation]) -> Vec<Delivery> {
        operations
            .iter()
            .enumerate()
            .map(|(n, &operation)| delivery(&n.to_string(), "1", operation))
            .collect()
    }

    #[test]
    fn a_faithful_delivery_is_clean() {
        let operations = [Create, Update, Update, Delete, Create];
        let report = check(&life(&operations), &deliveries(&operations));
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.committed, report.received, report.deliveries), (5, 5, 5));
    }

    #[test]
    fn rows_are_independent() {
        let writes = writes(&[(Outcome::Committed, &[("1", Create), ("2", Create), ("1", Delete)])]);
        let came = [delivery("a", "2", Create), delivery("b", "1", Create), delivery("c", "1", Delete)];
        assert!(check(&writes, &came).is_clean());
    }

    #[test]
    fn a_lost_event_is_found() {
        let report = check(&life(&[Create, Update, Delete]), &deliveries(&[Create, Delete]));
        assert_eq!((report.lost, report.phantom, report.out_of_order), (1, 0, 0));
        assert!(!report.is_clean() && report.findings.len() == 1);
        let report = check(&life(&[Create, Update]), &[]);
        assert_eq!(report.lost, 2);
    }

    #[test]
    fn an_invented_event_is_found() {
        let report = check(&life(&[Create]), &deliveries(&[Create, Update]));
        assert_eq!((report.lost, report.phantom, report.out_of_order), (0, 1, 0));
        let report = check(&life(&[Create]), &[delivery("a", "1", Create), delivery("b", "9", Create)]);
        assert_eq!((report.phantom, report.is_clean()), (1, false));
        assert_eq!(check(&life(&[Create]), &deliveries(&[Create, Other])).phantom, 1);
    }

    #[test]
    fn an_event_of_a_rolled_back_transaction_is_an_invented_one() {
        let writes =
            writes(&[(Outcome::Committed, &[("1", Create)]), (Outcome::RolledBack, &[("1", Update)])]);
        assert!(check(&writes, &deliveries(&[Create])).is_clean());
        assert_eq!(check(&writes, &deliveries(&[Create, Update])).phantom, 1);
    }

    #[test]
    fn an_unknown_commit_may_show_or_not() {
        let writes = writes(&[
            (Outcome::Committed, &[("1", Create)]),
            (Outcome::Unknown, &[("1", Update)]),
            (Outcome::Committed, &[("1", Delete)]),
        ]);
        for came in [&[Create, Delete][..], &[Create, Update, Delete]] {
            assert!(check(&writes, &deliveries(came)).is_clean(), "{came:?}");
        }
        assert_eq!(check(&writes, &deliveries(&[Create, Update, Update, Delete])).phantom, 1);
        assert_eq!(check(&writes, &deliveries(&[Create, Update])).lost, 1);
        assert_eq!(check(&writes, &deliveries(&[Create, Delete, Update])).out_of_order, 1);
    }

    #[test]
    fn another_order_is_found() {
        let report = check(&life(&[Create, Update, Delete]), &deliveries(&[Create, Delete, Update]));
        assert_eq!((report.lost, report.phantom, report.out_of_order), (0, 0, 1));
        // Lost and out of order at once: each is counted.
        let report = check(&life(&[Create, Update, Delete, Create]), &deliveries(&[Delete, Create, Update]));
        assert_eq!((report.lost, report.out_of_order), (1, 1));
    }

    #[test]
    fn the_order_of_like_operations_shows_in_their_times() {
        let mut came = deliveries(&[Create, Update, Update]);
        for (delivery, time) in came.iter_mut().zip(["10:00:00.5Z", "10:00:00.75Z", "10:00:00.625+00:00"]) {
            delivery.captured_at = Some(format!("2026-01-01T{time}"));
        }
        assert_eq!(check(&life(&[Create, Update, Update]), &came).out_of_order, 1);
        came.swap(1, 2);
        assert!(check(&life(&[Create, Update, Update]), &came).is_clean());
        came[0].captured_at = Some("yesterday".to_owned());
        assert_eq!(check(&life(&[Create, Update, Update]), &came).malformed, 1);
    }

    #[test]
    fn contended_rows_are_counted_only() {
        let mut writes = life(&[Create, Update, Delete]);
        writes.contended.insert("t".to_owned());
        assert!(check(&writes, &deliveries(&[Update, Delete, Create])).is_clean());
        assert_eq!(check(&writes, &deliveries(&[Update, Delete])).lost, 1);
    }

    #[test]
    fn a_repeat_must_say_so() {
        let mut came = deliveries(&[Create, Update]);
        let mut repeat = came[0].clone();
        repeat.attempt = Some(2);
        came.push(repeat.clone());
        let report = check(&life(&[Create, Update]), &came);
        assert_eq!((report.repeats_marked, report.repeats_unmarked, report.is_clean()), (1, 0, true));
        for attempt in [Some(1), None] {
            repeat.attempt = attempt;
            *came.last_mut().unwrap() = repeat.clone();
            let report = check(&life(&[Create, Update]), &came);
            assert_eq!((report.repeats_marked, report.repeats_unmarked, report.is_clean()), (0, 1, false));
        }
    }

    #[test]
    fn an_id_names_one_event_only() {
        let came = [delivery("a", "1", Create), delivery("a", "2", Create)];
        let writes = writes(&[(Outcome::Committed, &[("1", Create), ("2", Create)])]);
        let report = check(&writes, &came);
        assert_eq!((report.conflicting, report.lost, report.is_clean()), (1, 1, false));
    }

    #[test]
    fn an_event_needs_an_id() {
        let mut came = deliveries(&[Create]);
        came[0].event_id = None;
        let report = check(&life(&[Create]), &came);
        assert_eq!((report.malformed, report.lost, report.is_clean()), (1, 0, false));
    }

    #[test]
    fn a_deposed_replicas_delivery_is_stale() {
        let mut came = deliveries(&[Create, Update, Delete]);
        for (delivery, token) in came.iter_mut().zip([1, 2, 1]) {
            delivery.token = Some(token);
        }
        assert_eq!(check(&life(&[Create, Update, Delete]), &came).stale, 1);
    }

    #[test]
    fn a_failed_statement_of_a_writer_is_a_finding() {
        let writes = Writes { failed_statements: vec!["division by zero".to_owned()], ..Writes::default() };
        assert!(!check(&writes, &[]).is_clean());
    }

    #[test]
    fn a_takeover_lasts_until_the_next_terms_first_event() {
        let start = Instant::now();
        let mut came = deliveries(&[Create, Update, Update, Delete]);
        for (delivery, (ms, token)) in came.iter_mut().zip([(10, 1), (30, 1), (50, 2), (60, 2)]) {
            delivery.at = start + Duration::from_millis(ms);
            delivery.token = Some(token);
        }
        let fault = start + Duration::from_millis(20);
        assert_eq!(takeover(&came, fault), Some(Duration::from_millis(30)));
        assert_eq!(takeover(&came, start + Duration::from_millis(55)), None);
        assert_eq!(takeover(&came[..2], fault), None);
    }
}
