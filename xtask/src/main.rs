//! `cargo xtask …`: the one entry for the demo, the tests and the checks. It depends on no other crate of the workspace.

mod bench;
mod browser;
mod capture;
mod chaos;
mod check;
mod conformance;
mod demo;
mod etcd;
// The testkit's own files, so that what counts as a local server, and how a missing one is installed, is written once; a
// dependency is not wanted here.
#[path = "../../crates/testkit/src/etcd/binary.rs"]
mod etcd_binary;
mod example;
mod failover;
mod fix;
mod headings;
mod layering;
mod metadata;
mod operate;
#[path = "../../crates/testkit/src/packages.rs"]
mod packages;
mod play;
#[path = "../../crates/testkit/src/server/binaries.rs"]
mod postgres_binaries;
mod repro;
mod simulation;
mod steps;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The one entry for dapper's demo, tests and checks.
///
/// The tests and the demo need a PostgreSQL and find one by themselves: the server that DAPPER_TEST_DATABASE_URL
/// names, or local server binaries (DAPPER_TEST_POSTGRES_BIN chooses among several), or Docker, or on Debian and Ubuntu as
/// root the distribution's package (installed unless DAPPER_TEST_NO_INSTALL=1). They say which one they took. What concerns etcd needs protoc to be built and etcd to be
/// tested, and what concerns the page needs Chromium and axe-core; these are found or installed in the same way, and without them all
/// else is done, and said to be all.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Bench),
    Capture(capture::Capture),
    Chaos(chaos::Chaos),
    Demo(demo::Demo),
    Failover(failover::Failover),
    Simulate(simulation::Simulate),
    Model(simulation::Model),
    Test(test::Test),
    Check(check::Check),
    Conformance(conformance::Conformance),
    Fix(fix::Fix),
    Storm(operate::Storm),
    Growth(operate::Growth),
    FailingKey(operate::FailingKey),
    Repro(repro::Repro),
    Screenshots(browser::Screenshots),
    Ci(Ci),
}

/// Run `check`, then `test`, then five minutes of `chaos`, as continuous integration does.
#[derive(Debug, clap::Args)]
struct Ci {}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Bench(bench) => return bench.run().unwrap_or_else(|error| fail(&error)),
        Command::Chaos(chaos) => return chaos.run().unwrap_or_else(|error| fail(&error)),
        Command::Demo(demo) => return demo.run().unwrap_or_else(|error| fail(&error)),
        Command::Failover(failover) => return failover.run().unwrap_or_else(|error| fail(&error)),
        Command::Simulate(simulate) => simulate.run(),
        Command::Model(model) => model.run(),
        Command::Storm(storm) => return storm.run().unwrap_or_else(|error| fail(&error)),
        Command::Growth(growth) => return growth.run().unwrap_or_else(|error| fail(&error)),
        Command::FailingKey(failing) => return failing.run().unwrap_or_else(|error| fail(&error)),
        Command::Screenshots(shots) => return shots.run().unwrap_or_else(|error| fail(&error)),
        Command::Repro(repro) => return repro.run().unwrap_or_else(|error| fail(&error)),
        Command::Capture(capture) => capture.run(),
        Command::Test(test) => test.run(),
        Command::Check(check) => check.run(),
        Command::Conformance(conformance) => conformance.run(),
        Command::Fix(fix) => fix.run(),
        Command::Ci(Ci {}) => return ci().unwrap_or_else(|error| fail(&error)),
    };
    done.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

fn ci() -> anyhow::Result<ExitCode> {
    check::Check {}.run()?;
    test::Test::default().run()?;
    chaos::Chaos::short().run()
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
