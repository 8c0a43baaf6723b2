//! The same replica with every allocation counted, which costs a little; only what is allocated is ever taken from it.

use std::process::ExitCode;

use dapper_bench::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("parser") => dapper_bench::parser_allocations(),
        _ => dapper_bench::replica(),
    }
}
