//! `lock-simulation model`.

use std::time::Instant;

use anyhow::{Result, bail};
use dapper_lock_simulation::Break;
use dapper_lock_simulation::model::{Configuration, Report, explore};
use indicatif::{ProgressBar, ProgressStyle};

/// Visit every state of small configurations, and print how many there are
#[derive(Debug, clap::Args)]
pub(crate) struct Model {
    /// Break this on purpose, and show the shortest way to the harm: it is an error if there is none
    #[arg(long = "break", value_name = "NAME")]
    broken: Option<Break>,
    /// Only the configuration that takes a second
    #[arg(long)]
    small: bool,
}

impl Model {
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(broken) = self.broken {
            if !broken.is_modelled() {
                bail!("the model has nothing that {broken} could hurt; the simulation has");
            }
            let report = explore_with_progress(Configuration::that_shows(broken));
            let Some(found) = &report.found else {
                bail!("{broken} was broken on purpose, and nobody noticed")
            };
            report.path.iter().for_each(|line| println!("{line}"));
            println!("{found}");
            println!("{broken} was broken on purpose, and caught after {} states", report.states);
            return Ok(());
        }
        let all = [Configuration::THREE_NODES, Configuration::SLOW_CLOCK, Configuration::DELAYS];
        let configurations = if self.small { &[Configuration::SMALL][..] } else { &all };
        for configuration in configurations {
            let report = explore_with_progress(*configuration);
            if let Some(found) = report.found {
                report.path.iter().for_each(|line| println!("{line}"));
                bail!("{found}");
            }
        }
        println!("no violation");
        Ok(())
    }
}

fn explore_with_progress(configuration: Configuration) -> Report {
    let style =
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("the template is well formed");
    let bar = ProgressBar::new_spinner().with_style(style);
    let start = Instant::now();
    let report = explore(configuration, &mut |report| {
        bar.set_message(format!("{} states, {} steps deep", report.states, report.depth));
        bar.tick();
    });
    bar.finish_and_clear();
    println!(
        "{configuration}: {} states, {} transitions, at most {} steps deep, {:.1} s",
        report.states,
        report.transitions,
        report.depth,
        start.elapsed().as_secs_f64()
    );
    report
}
