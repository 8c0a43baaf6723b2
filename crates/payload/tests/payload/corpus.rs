//! The fuzz target's corpus, run as an ordinary test.

#[path = "../../fuzz/check.rs"]
#[allow(unreachable_pub)] // The fuzz target is another crate.
mod check;

#[test]
fn the_corpus_keeps_the_promises() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/parse");
    let mut good = 0;
    let mut bad = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        if check::check(text) { good += 1 } else { bad += 1 }
    }
    assert!(good >= 8 && bad >= 8, "{good} good and {bad} bad texts in {folder}");
}
