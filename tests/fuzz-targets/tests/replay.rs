//! The kept corpus through every target, with the ordinary compiler: what was found once stays mended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz_targets::TARGETS;

/// All of it is in version control.
const CORPUS_BYTES_MAX: u64 = 384 << 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        .flatten()
        .map(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .trim_end_matches(".rs")
                .to_owned()
        })
        .collect()
}

#[test]
fn every_target_takes_its_whole_corpus() {
    for target in TARGETS {
        let directory = fuzz().join("corpus").join(target.name);
        let mut seen = 0;
        for file in names_in(&directory) {
            let path = directory.join(&file);
            // What fails is in the panic's own output, below this line.
            println!("{}", path.display());
            (target.run)(&fs::read(&path).unwrap());
            seen += 1;
        }
        assert!(seen > 0, "{} has no corpus", target.name);
        // And what no corpus holds: nothing, and one byte of each.
        (target.run)(&[]);
        for byte in 0..=255 {
            (target.run)(&[byte]);
        }
    }
}

#[test]
fn every_target_has_its_program_and_its_corpus() {
    let known: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names_in(&fuzz().join("fuzz_targets")), known);
    assert_eq!(names_in(&fuzz().join("corpus")), known);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &known {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
    }
}

#[test]
fn the_corpus_stays_small() {
    let mut bytes = 0;
    for target in TARGETS {
        let directory = fuzz().join("corpus").join(target.name);
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            bytes += entry.metadata().unwrap().len();
        }
    }
    assert!(
        bytes <= CORPUS_BYTES_MAX,
        "{bytes} bytes: scripts/fuzz --minimise"
    );
}

/// Panics in a task or a method are caught by the product: the rules of the servers would not see them otherwise.
#[test]
fn a_panic_that_is_caught_is_seen() {
    fuzz_targets::feed::watch_panics();
    assert!(!fuzz_targets::feed::contained());
    let caught = std::panic::catch_unwind(|| panic!("on purpose"));
    assert!(caught.is_err() && fuzz_targets::feed::contained());
    fuzz_targets::feed::watch_panics();
    assert!(!fuzz_targets::feed::contained());
}
