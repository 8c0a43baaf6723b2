//! The simulation.

use dapper_lock_simulation::simulation::{Outcome, Tally, simulate, trace};
use dapper_lock_simulation::{Break, Violation};

/// How many seeds the ordinary tests run; `cargo xtask simulate` runs more.
const SEEDS: u64 = 3_000;

#[test]
fn no_seed_breaks_a_promise_and_everything_that_may_go_wrong_does() {
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        let outcome = simulate(seed, None);
        assert_eq!(outcome.violations, [], "seed {seed}: cargo xtask simulate --seed {seed} replays it");
        tally += outcome.tally;
    }
    let counts = [
        tally.faults,
        tally.lost_messages,
        tally.followed_sessions,
        tally.renewals,
        tally.expired,
        tally.not_holder,
        tally.session_lost,
        tally.gave_up,
        tally.forced_overlaps,
        tally.refused,
    ];
    assert!(counts.iter().all(|count| *count > 0), "something never happened: {tally}");
    assert!(tally.accepted > 10 * SEEDS, "hardly anything was written: {tally}");
}

#[test]
fn a_seed_always_does_the_same() {
    for seed in 0..20 {
        let (one, other, quiet) = (trace(seed, None), trace(seed, None), simulate(seed, None));
        assert!(one.trace.len() > 50, "{}", one.trace.len());
        assert_eq!(one.trace, other.trace);
        assert_eq!(one.tally, quiet.tally);
    }
}

/// The first violation that `wanted` takes, with that broken.
fn caught(broken: Break, wanted: fn(&Violation) -> bool) {
    let has_it = |outcome: &Outcome| outcome.violations.iter().any(wanted);
    let first = (0..SEEDS).find(|seed| has_it(&simulate(*seed, Some(broken))));
    let first = first.unwrap_or_else(|| panic!("{broken} was broken, and no seed noticed"));
    assert!(!has_it(&simulate(first, None)), "seed {first} fails without anything broken");
}

fn two_holders(violation: &Violation) -> bool {
    matches!(violation, Violation::TwoHolders { .. })
}

fn stale_write(violation: &Violation) -> bool {
    matches!(violation, Violation::StaleWrite { .. })
}

fn trust(violation: &Violation) -> bool {
    matches!(violation, Violation::Trust { .. })
}

fn token_order(violation: &Violation) -> bool {
    matches!(violation, Violation::TokenOrder { .. })
}

#[test]
fn a_row_without_a_fence_is_caught() {
    caught(Break::Fence, stale_write);
}

#[test]
fn a_missing_seal_is_caught() {
    caught(Break::Seal, stale_write);
}

#[test]
fn a_renewal_of_any_term_is_caught() {
    caught(Break::ExactRenew, token_order);
    caught(Break::ExactRenew, two_holders);
}

#[test]
fn a_release_of_any_term_is_caught() {
    caught(Break::ExactRelease, two_holders);
}

#[test]
fn trust_from_the_answer_on_is_caught() {
    caught(Break::Anchor, trust);
    caught(Break::Anchor, two_holders);
}

#[test]
fn a_missing_margin_is_caught() {
    caught(Break::Margin, trust);
    caught(Break::Margin, two_holders);
}

#[test]
fn an_unclear_answer_that_counts_as_held_is_caught() {
    caught(Break::Unclear, two_holders);
}

#[test]
fn a_token_issued_twice_is_caught() {
    caught(Break::TokenReuse, token_order);
    caught(Break::TokenReuse, two_holders);
}

#[test]
fn a_server_that_gives_a_holder_up_too_soon_is_caught() {
    caught(Break::Patience, two_holders);
}
