//! The demo: changes go from PostgreSQL through three replicas to a webhook, one leader is killed, the next is
//! stopped, and in the end everything is counted.

mod arguments;
mod progress;
mod scenario;
mod summary;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(scenario::play(&arguments)) {
        Ok(summary) => {
            summary.print(arguments.json);
            if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        // Not a verdict on the program: the demo itself could not go on.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
