//! What `docs/lock-backends.md` shows is what is there.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_block_of_code_is_in_a_file_of_this_crate() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("../../lock-backends.md")).unwrap();
    let files =
        ["Cargo.toml", "pipeline.toml", "src/lib.rs", "src/leases.rs", "src/main.rs", "tests/conformance.rs"];
    let sources = files.map(|file| fs::read_to_string(here.join(file)).unwrap());
    let mut checked = 0;
    let mut parts = page.split("```");
    // Every second part is a block; its first line is the language.
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        let Some(code) = block.strip_prefix("rust\n").or_else(|| block.strip_prefix("toml\n")) else {
            continue;
        };
        assert!(sources.iter().any(|source| source.contains(code)), "this is in no file:\n{code}");
        checked += 1;
    }
    assert!(checked >= 6, "only {checked} blocks were found");
}

#[test]
fn a_mistake_is_told_as_the_page_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("../../lock-backends.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let check = |pipeline: &str| {
        fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_custom-lock-store"));
        command.args(["check", "--offline", "pipeline.toml"]).current_dir(folder.path());
        for (name, value) in [("LEASES", "x"), ("DATABASE_URL", "host=h"), ("RECEIVER_URL", "http://h/")] {
            command.env(name, value);
        }
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let pipeline = include_str!("../pipeline.toml");
    let (code, said) = check(pipeline);
    assert_eq!((code, said.lines().next()), (Some(0), Some("lock     file, ttl 2s")), "{said}");
    let (code, said) = check(&pipeline.replace("directory", "directry"));
    assert_eq!(code, Some(1));
    assert!(page.contains(&format!("```text\n{said}```")), "the page does not say this:\n{said}");
    let (code, said) = check(&pipeline.replace("directory = ", "# "));
    assert_eq!(
        (code, said.as_str()),
        (Some(1), "error: pipeline.toml:1: missing key \"directory\" in [lock]\n")
    );
}
