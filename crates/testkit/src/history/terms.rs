//! Whether the terms of one lease kept apart: by what the holders trusted, by what the fenced row let pass, and by what
//! reached a sink.

use std::time::Duration;

use super::Delivery;

/// How long one holder trusted one term, by its own words; points in time of one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Who.
    pub holder: String,
    /// The term.
    pub token: u64,
    /// Not before this.
    pub from: Duration,
    /// Not after this.
    pub until: Duration,
}

/// One write of the row that the terms are fenced by, in the order in which the writes took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowWrite {
    /// The server's process that wrote it, which is one connection.
    pub session: i32,
    /// The token in the row after the write.
    pub token: u64,
}

/// The longest time that two holders trusted their terms at once; zero when none did. Terms of one holder count, too.
#[must_use]
pub fn longest_overlap(terms: &[Trust]) -> Duration {
    let mut by_start: Vec<&Trust> = terms.iter().collect();
    by_start.sort_by_key(|term| term.from);
    let mut latest_end = Duration::ZERO;
    let mut longest = Duration::ZERO;
    for term in by_start {
        longest = longest.max(latest_end.min(term.until).saturating_sub(term.from));
        latest_end = latest_end.max(term.until);
    }
    longest
}

/// Terms whose token is not above that of every term that began before: a token that was used twice, or went back.
#[must_use]
pub fn tokens_not_above_earlier(terms: &[Trust]) -> usize {
    let mut by_start: Vec<&Trust> = terms.iter().collect();
    by_start.sort_by_key(|term| term.from);
    let mut highest = 0;
    let mut count = 0;
    for term in by_start {
        count += usize::from(term.token <= highest);
        highest = highest.max(term.token);
    }
    count
}

/// Writes by another session than the one that brought the row's token with it: those of a holder that was replaced.
/// Going back to a lower token is one, too.
#[must_use]
pub fn stale_writes(writes: &[RowWrite]) -> usize {
    let mut seal: Option<RowWrite> = None;
    let mut count = 0;
    for write in writes {
        match seal {
            Some(seal) if write.token < seal.token => count += 1,
            Some(seal) if write.token == seal.token => count += usize::from(write.session != seal.session),
            _ => seal = Some(*write),
        }
    }
    count
}

/// What a sink takes of `deliveries`, which are in the order of their arrival, if it refuses a token lower than one it
/// has seen; and how many it refuses.
#[must_use]
pub fn fenced(deliveries: Vec<Delivery>) -> (Vec<Delivery>, usize) {
    let offered = deliveries.len();
    let mut highest = None;
    let taken: Vec<Delivery> = deliveries
        .into_iter()
        .filter(|delivery| {
            let fresh = delivery.token >= highest;
            highest = highest.max(delivery.token);
            fresh
        })
        .collect();
    let refused = offered - taken.len();
    (taken, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Operation;
    use std::time::Instant;

    fn trust(token: u64, from: u64, until: u64) -> Trust {
        Trust {
            holder: format!("of {token}"),
            token,
            from: Duration::from_millis(from),
            until: Duration::from_millis(until),
        }
    }

    #[test]
    fn terms_that_follow_each_other_do_not_overlap() {
        assert_eq!(longest_overlap(&[]), Duration::ZERO);
        assert_eq!(longest_overlap(&[trust(2, 10, 20), trust(1, 0, 10), trust(3, 25, 30)]), Duration::ZERO);
    }

    #[test]
    fn the_longest_overlap_is_found_whatever_lies_between() {
        let apart = [trust(1, 0, 10), trust(2, 9, 20), trust(3, 17, 30)];
        assert_eq!(longest_overlap(&apart), Duration::from_millis(3));
        // The first ends last: it overlaps with both.
        let within = [trust(1, 0, 100), trust(2, 10, 15), trust(3, 20, 60)];
        assert_eq!(longest_overlap(&within), Duration::from_millis(40));
    }

    #[test]
    fn a_token_used_twice_is_found() {
        assert_eq!(tokens_not_above_earlier(&[trust(2, 10, 20), trust(1, 0, 10)]), 0);
        assert_eq!(tokens_not_above_earlier(&[trust(1, 0, 10), trust(1, 20, 30), trust(3, 40, 50)]), 1);
        assert_eq!(tokens_not_above_earlier(&[trust(3, 0, 10), trust(2, 20, 30)]), 1);
    }

    #[test]
    fn only_the_session_that_sealed_the_row_may_write_it() {
        let write = |session, token| RowWrite { session, token };
        assert_eq!(stale_writes(&[write(7, 1), write(7, 1), write(8, 2), write(8, 2), write(7, 3)]), 0);
        // As the old holder's does where the fence is missing: it leaves the successor's token in the row.
        assert_eq!(stale_writes(&[write(7, 1), write(8, 2), write(7, 2), write(8, 2)]), 1);
        assert_eq!(stale_writes(&[write(7, 1), write(8, 2), write(7, 1), write(7, 1)]), 2);
    }

    #[test]
    fn a_sink_takes_no_token_that_is_lower_than_one_before() {
        let delivery = |token| Delivery {
            at: Instant::now(),
            event_id: None,
            token,
            attempt: Some(1),
            table: "t".to_owned(),
            key: "1".to_owned(),
            operation: Operation::Create,
            captured_at: None,
        };
        let (taken, refused) =
            fenced([Some(1), Some(2), Some(1), None, Some(2), Some(3)].map(delivery).into());
        let tokens: Vec<Option<u64>> = taken.iter().map(|delivery| delivery.token).collect();
        assert_eq!((tokens, refused), (vec![Some(1), Some(2), Some(2), Some(3)], 2));
    }
}
