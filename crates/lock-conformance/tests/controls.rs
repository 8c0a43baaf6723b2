//! Negative controls: each case fails on a store that is wrong in one way, says why, and no other case fails that need
//! not. A case that can't fail checks nothing.

mod model;
mod sins;

use std::collections::BTreeSet;
use std::sync::Arc;

use dapper_lock::{LockStore, MemoryStore};
use dapper_lock_conformance::{
    __left_out, __run, Case, Harness, HarnessError, Needs, Outcome, Worker, cases,
};

use model::{Model, World};
use sins::{CONTROLS, Control, Sin};

/// Needs real processes, so it has a control of its own.
const PROCESSES: &str = "many_processes_count_without_losing_one";

/// Runs a case on the model, in time that passes when nothing else is to do.
fn run(case: &Case, sin: Option<Sin>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(case.run(Worker::none(), move |_: Needs| async move {
        Ok::<_, HarnessError>(Model { world: World::new(sin), handles: Default::default() })
    }))
}

/// The names of the cases that fail, each with what it says.
fn failures(sin: Option<Sin>) -> Vec<(&'static str, String)> {
    let outcomes = cases().iter().map(|case| (case.name(), run(case, sin)));
    let failed = outcomes.filter_map(|(name, outcome)| match outcome {
        Outcome::Failed { what } => Some((name, what)),
        Outcome::Passed => None,
        Outcome::NotCovered { missing } => {
            assert_eq!((name, missing), (PROCESSES, "address"));
            None
        }
    });
    failed.collect()
}

#[test]
fn a_store_without_a_sin_passes_every_case() {
    assert_eq!(failures(None), []);
}

#[test]
fn every_case_has_a_control() {
    let controlled: BTreeSet<&str> = CONTROLS.iter().map(|control| control.case).chain([PROCESSES]).collect();
    let all: BTreeSet<&str> = cases().iter().map(Case::name).collect();
    assert_eq!(controlled, all);
}

#[test]
fn each_sin_is_found_by_its_case_for_its_reason_and_by_no_case_that_does_not_rely_on_it() {
    let mut wrong = Vec::new();
    for Control { sin, case, text, also } in CONTROLS {
        let failed = failures(Some(*sin));
        match failed.iter().find(|(name, _)| name == case) {
            Some((_, what)) if what.contains(text) => {}
            Some((_, what)) => {
                wrong.push(format!("{sin:?}: {case} gives another reason than {text:?}: {what}"));
            }
            None => wrong.push(format!("{sin:?}: {case} passes")),
        }
        let others: Vec<&str> = failed.iter().map(|(name, _)| *name).filter(|name| name != case).collect();
        if others != *also {
            wrong.push(format!("{sin:?}: other cases that fail: {others:?}, not {also:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Obligations are named as the contract names them, and each is tested.
#[test]
fn every_obligation_of_the_contract_has_a_case() {
    let contract = include_str!("../../lock/src/store.rs");
    let listed = contract.lines().filter_map(|line| line.trim().strip_prefix("/// - **")?.split_once(".**"));
    let methods = contract.lines().filter_map(|line| line.trim().strip_prefix("async fn ")?.split_once('('));
    let owed: BTreeSet<&str> = listed.chain(methods).map(|(name, _)| name).collect();
    let tested: BTreeSet<&str> = cases().iter().map(Case::obligation).collect();
    let unknown: Vec<_> = tested.difference(&owed).collect();
    assert!(unknown.is_empty(), "cases name obligations that the contract does not have: {unknown:?}");
    let untested: Vec<_> = owed.difference(&tested).collect();
    // Waiting is an obligation of its own.
    assert_eq!(untested, [&"wait"]);
}

/// A store that calls itself one, and is one in each process.
struct OneInEachProcess(Arc<MemoryStore>);

#[async_trait::async_trait]
impl Harness for OneInEachProcess {
    async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::clone(&self.0) as Arc<dyn LockStore>)
    }

    fn address(&self) -> Result<String, HarnessError> {
        Ok("here".into())
    }

    async fn attach(_address: &str) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::new(MemoryStore::new()))
    }
}

#[test]
fn processes_that_do_not_exclude_each_other_are_found() {
    if Worker::serve::<OneInEachProcess>() {
        return;
    }
    let own = "controls::processes_that_do_not_exclude_each_other_are_found";
    let worker = Worker::this_program([own, "--exact", "--nocapture"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let case = Case::named(PROCESSES).unwrap();
    let outcome = runtime.block_on(case.run(worker, one_in_each_process));
    let Outcome::Failed { what } = outcome else { panic!("{outcome}") };
    assert!(
        what.contains("3 processes counted 60 times under the lock to") || what.contains("two wrote it"),
        "{what}"
    );
}

#[test]
fn what_can_not_be_covered_is_said_by_name() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = |name: &str| {
        runtime.block_on(Case::named(name).unwrap().run(Worker::none(), one_in_each_process)).to_string()
    };
    assert_eq!(outcome("a_restart_frees_nothing"), "not covered: the harness has no `restart`");
    assert_eq!(outcome(PROCESSES), "not covered: the harness has no `Worker::this_program`");
}

async fn one_in_each_process(_needs: Needs) -> Result<OneInEachProcess, HarnessError> {
    Ok(OneInEachProcess(Arc::default()))
}

#[test]
#[should_panic(expected = "is not covered, since the harness has no `restart`: add it, or say so")]
fn what_is_neither_covered_nor_listed_fails() {
    __run("main::x", "a_restart_frees_nothing", one_in_each_process);
}

#[test]
#[should_panic(
    expected = "names a_free_resource_is_granted, which the harness can do; it came to this: passed"
)]
fn what_is_left_out_needlessly_fails() {
    __left_out(&["a_restart_frees_nothing", "a_free_resource_is_granted"], one_in_each_process);
}

#[test]
#[should_panic(expected = "names a_free_lunch, which is no case")]
fn what_is_left_out_is_a_case() {
    __left_out(&["a_free_lunch"], one_in_each_process);
}
