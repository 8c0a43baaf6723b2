//! Each fault of the failover measurement, a few times and with a short lease: nothing may go wrong, whatever the
//! machine. How fast it must be is for `cargo xtask failover` on a quiet one to say.

use std::sync::Arc;
use std::time::Duration;

use dapper_testkit::failover::{Case, CaseReport, FailoverOptions, Locks, measure};

const TTL: Duration = Duration::from_secs(2);
/// Far more than a time to live, and far less than any other wait there is.
const SLOW: Duration = Duration::from_secs(8);

async fn measured(locks: Locks, case: Case) -> CaseReport {
    let program = env!("CARGO_BIN_EXE_dapper").into();
    let options =
        FailoverOptions { program, locks, ttl: TTL, runs: 2, parallel: 2, after_run: Arc::new(|| {}) };
    let report = measure(case, &options).await.unwrap();
    eprintln!("{report:#?}");
    assert_eq!(report.rounds.len(), 2);
    assert!(report.percentile(100) < SLOW, "{report:#?}");
    report
}

async fn keeps_all_promises(case: Case) {
    judged(Locks::Postgres, case).await;
}

async fn judged(locks: Locks, case: Case) {
    let report = measured(locks, case).await;
    assert_eq!(report.broken_promises(), Vec::<String>::new(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_holder_is_followed() {
    keeps_all_promises(Case::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_and_starts_again_repeats_nothing() {
    keeps_all_promises(Case::StopStart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_is_followed() {
    keeps_all_promises(Case::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_holder_is_followed_and_does_no_harm_when_it_thaws() {
    keeps_all_promises(Case::Freeze).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_behind_a_silent_proxy_is_followed_and_does_no_harm_when_it_is_heard_again() {
    keeps_all_promises(Case::SilentProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_link_is_down_is_followed_and_does_no_harm_when_it_is_up_again() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("the link that is down is left out: only root makes network namespaces");
        return;
    }
    keeps_all_promises(Case::SilentLink).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_session_is_ended_is_followed() {
    let mut report = measured(Locks::Postgres, Case::Terminated).await;
    // The end of a session reaches both at once. The old holder has some milliseconds to notice; on a busy machine it
    // may need more. What is fenced is not in danger.
    assert!(report.verdict.overlap < Duration::from_millis(50), "{report:#?}");
    report.verdict.overlap = Duration::ZERO;
    assert_eq!(report.broken_promises(), Vec::<String>::new(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_is_read_on() {
    keeps_all_promises(Case::RestartFast).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_server_is_read_on() {
    keeps_all_promises(Case::RestartImmediate).await;
}

#[cfg(feature = "etcd")]
mod with_etcd {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stopped_holder_is_followed() {
        judged(Locks::Etcd, Case::Stop).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_killed_holder_is_followed() {
        judged(Locks::Etcd, Case::Kill).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_frozen_holder_is_followed_and_does_no_harm_when_it_thaws() {
        judged(Locks::Etcd, Case::Freeze).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_holder_behind_silent_proxies_is_followed_and_does_no_harm_when_it_is_heard_again() {
        judged(Locks::Etcd, Case::SilentProxy).await;
    }
}
