//! What holds for every text; the fuzz target and the test that runs its corpus share it.

use dapper_payload::parse;

/// Panics unless the parser and the writer keep their promises for `text`; says whether it is a payload.
pub fn check(text: &str) -> bool {
    match parse(text) {
        Ok(payload) => {
            for change in &payload {
                let _ = (change.id(), change.key_json(), change.old(), change.new());
            }
            let written = payload.to_json();
            let again = parse(&written).expect("what was written can be read");
            assert_eq!(again.to_json(), written);
            assert!(
                again.changes().map(|change| change.id()).eq(payload.changes().map(|change| change.id()))
            );
            true
        }
        Err(error) => {
            assert!(text[error.offset()..].starts_with(error.offending()), "{error}");
            false
        }
    }
}
