//! `dapper`: runs a pipeline file, with everything that is built in and nothing else.

use std::process::ExitCode;

use dapper_orchestrator_cli::App;

fn main() -> ExitCode {
    App::new().main()
}
