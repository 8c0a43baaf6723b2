//! Drives the comparisons, and is the other ways' reader when it starts itself for that.

use std::process::ExitCode;

fn main() -> ExitCode {
    dapper_bench::main()
}
