//! Cases as tests.

use std::future::Future;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::case::{CASE_LIMIT, Case, Outcome};
use crate::harness::{Harness, HarnessError, Needs};
use crate::worker::Worker;

/// Makes a `#[test]` of each case, under the case's name, in the module where it stands.
///
/// It takes a function that makes a fresh store, `async fn(Needs) -> Result<impl Harness, HarnessError>`. What the
/// harness can't do is listed after it; those cases then show up as ignored, and a list that leaves out what could be
/// covered is itself a failure. What is neither covered nor listed fails. The [crate](crate) shows an example.
#[macro_export]
macro_rules! suite {
    ($create:path) => {
        $crate::suite!($create, not_covered: []);
    };
    ($create:path, not_covered: [$($left_out:ident),* $(,)?]) => {
        $crate::__for_each_case! { $crate::__tests { ($) $create; [$($left_out)*]; } }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    (
        ($d:tt) $create:path; [$($left_out:ident)*];
        $($module:ident::$name:ident => $obligation:literal [$($need:ident)?],)*
    ) => {
        // The first arm that fits: a case that is left out is ignored by its name.
        macro_rules! __case {
            $(($left_out $d test:item) => { #[ignore = "not covered"] $d test };)*
            ($d name:ident $d test:item) => { $d test };
        }
        $(__case! {
            $name
            #[test]
            fn $name() {
                $crate::__run(concat!(module_path!(), "::", stringify!($name)), stringify!($name), $create);
            }
        })*
        #[test]
        fn nothing_is_left_out_that_could_be_covered() {
            $crate::__left_out(&[$(stringify!($left_out)),*], $create);
        }
    };
}

/// Runs one case as a test, or as the worker of one.
///
/// # Panics
/// When it fails or is not covered.
#[doc(hidden)]
pub fn __run<H, F, Fut>(path: &str, name: &str, create: F)
where
    H: Harness,
    F: Fn(Needs) -> Fut + Send + 'static,
    Fut: Future<Output = Result<H, HarnessError>> + 'static,
{
    if Worker::serve::<H>() {
        return;
    }
    let case = Case::named(name).expect("the list of cases is one");
    // Without the name of the crate, as the test harness calls it.
    let test = path.split_once("::").map_or(path, |(_, test)| test);
    let worker = Worker::this_program([test, "--exact", "--test-threads=1", "--nocapture"]);
    match run_apart(case, worker, create) {
        Outcome::Passed => {}
        Outcome::NotCovered { missing } => panic!(
            "{name} is not covered, since the harness has no `{missing}`: add it, or say so in the list `not_covered`"
        ),
        Outcome::Failed { what } => panic!("{what}"),
    }
}

/// Checks that what is listed as not covered is a case, and can't be covered.
///
/// # Panics
/// When it is none, or could be covered.
#[doc(hidden)]
pub fn __left_out<H, F, Fut>(names: &[&str], create: F)
where
    H: Harness,
    F: Fn(Needs) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<H, HarnessError>> + 'static,
{
    for name in names {
        let Some(case) = Case::named(name) else { panic!("`not_covered` names {name}, which is no case") };
        let outcome = run_apart(case, Worker::none(), create.clone());
        let missing = matches!(&outcome, Outcome::NotCovered { missing } if !missing.starts_with("Worker"));
        assert!(missing, "`not_covered` names {name}, which the harness can do; it came to this: {outcome}");
    }
}

/// Runs a case in a thread and a runtime of its own, so that even a store that blocks its thread is not waited for
/// without end.
fn run_apart<H, F, Fut>(case: &'static Case, worker: Worker, create: F) -> Outcome
where
    H: Harness,
    F: Fn(Needs) -> Fut + Send + 'static,
    Fut: Future<Output = Result<H, HarnessError>> + 'static,
{
    let (sender, outcome) = mpsc::channel();
    let running = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let outcome = runtime.block_on(case.run(worker, create));
        // Nobody listens any more when it took too long.
        let _ = sender.send(outcome);
        runtime.shutdown_background();
    });
    match outcome.recv_timeout(CASE_LIMIT + Duration::from_secs(10)) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            case.failed(format!("a call blocked its thread for longer than {CASE_LIMIT:?}"))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => match running.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => case.failed("the case ended without an outcome"),
        },
    }
}
