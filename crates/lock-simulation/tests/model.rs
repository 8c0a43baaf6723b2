//! The model.

use dapper_lock_simulation::model::{Configuration, Report, explore};
use dapper_lock_simulation::{Break, Violation};

fn run(configuration: Configuration) -> Report {
    explore(configuration, &mut |_| {})
}

#[test]
fn no_state_of_the_small_configuration_breaks_a_promise() {
    let report = run(Configuration::SMALL);
    assert_eq!(report.found, None, "{:#?}", report.path);
    assert!(report.states > 10_000, "only {} states", report.states);
}

fn caught(broken: Break, wanted: fn(&Violation) -> bool) {
    let report = run(Configuration::that_shows(broken));
    let found = report.found.unwrap_or_else(|| panic!("{broken} was broken, and no state shows it"));
    assert!(wanted(&found), "{broken}: {found}\n{:#?}", report.path);
    assert!(!report.path.is_empty());
}

#[test]
fn a_row_without_a_fence_is_caught() {
    caught(Break::Fence, |found| matches!(found, Violation::StaleWrite { .. }));
}

#[test]
fn a_missing_seal_is_caught() {
    caught(Break::Seal, |found| matches!(found, Violation::StaleWrite { .. }));
}

#[test]
fn a_renewal_of_any_term_is_caught() {
    caught(Break::ExactRenew, |found| matches!(found, Violation::TokenOrder { .. }));
}

#[test]
fn a_release_of_any_term_is_caught() {
    caught(Break::ExactRelease, |found| matches!(found, Violation::TwoHolders { .. }));
}

#[test]
fn trust_from_the_answer_on_is_caught() {
    caught(Break::Anchor, |found| matches!(found, Violation::TwoHolders { .. }));
}

#[test]
fn a_missing_margin_is_caught() {
    caught(Break::Margin, |found| matches!(found, Violation::TwoHolders { .. }));
}
