//! A replica: `dapper` with the process type `probe`, which only counts.

use std::process::ExitCode;

fn main() -> ExitCode {
    dapper_bench::replica()
}
