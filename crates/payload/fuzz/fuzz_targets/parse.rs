//! No text makes the parser panic, each error has its place, and what is written is read as the same.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|text: &str| {
    check::check(text);
});
