//! A key that is refused for minutes, and what the other keys notice of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use dapper_testkit::failing_key::{FailingKeyOptions, run};

use crate::Verdict;

/// The p99 of the other keys, as a multiple of that without a refused key.
const LARGEST_RATIO: f64 = 2.0;
const SLICE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct FailingKey {
    /// How many minutes the key is refused
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Changes per second
    #[arg(long, default_value_t = 200)]
    rate: u32,
}

impl FailingKey {
    pub(crate) async fn play(self, dapper: &Path) -> Result<Verdict> {
        let limit = Duration::from_secs(60) * self.minutes;
        let options = FailingKeyOptions { program: dapper.to_owned(), limit, slice: SLICE, rate: self.rate };
        let report = run(&options, |line| eprintln!("{line}")).await.map_err(|error| anyhow!(error))?;
        let mut verdict = Verdict::default();
        verdict.row("the key was refused for", &format!("{:.0} s", report.refused_for.as_secs_f64()));
        verdict.row("requests refused", &report.refusals);
        verdict.row("changes of the key", &report.held_back);
        verdict.row("events parked in the end", &report.parked);
        verdict.row("all had come after", &format!("{:.1} s", report.caught_up.as_secs_f64()));
        let counts = format!("{} / {}", report.without.len(), report.with.len());
        verdict.row("changes of other keys measured, without / with a refused key", &counts);
        for (name, thousandths) in [("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1000)] {
            let [without, with] = report.percentiles(thousandths).map(|time| time.as_secs_f64() * 1e3);
            verdict.row(format!("latency {name}, without / with"), &format!("{without:.2} / {with:.2} ms"));
        }
        verdict.row("p99 with / without", &format!("{:.2}", report.ratio()));
        verdict.must(
            report.ratio() <= LARGEST_RATIO,
            "the refused key more than doubled the p99 latency of the others",
        );
        report.wrong.into_iter().for_each(|wrong| verdict.must(false, wrong));
        Ok(verdict)
    }
}
