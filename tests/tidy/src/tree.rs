//! The files of the tree as version control sees them: tracked, and new ones that nothing ignores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rust_source::Source;

pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors()
        .nth(2)
        .expect("tests/tidy lies two levels below the root")
        .to_path_buf()
}

/// Paths relative to the root, with `/`.
pub fn files() -> Vec<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output();
    let mut files = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(String::from)
            .collect(),
        // Unpacked from an archive: no version control, so everything but the build's own directory.
        _ => walk(&root()),
    };
    files.retain(|file| root().join(file).is_file());
    files.sort();
    files.dedup();
    files
}

fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)
            .expect("list a directory of the tree")
            .flatten()
        {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" {
                directories.push(path);
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// The text of a file, or `None` if it is no text.
pub fn text(file: &str) -> Option<String> {
    String::from_utf8(fs::read(root().join(file)).ok()?).ok()
}

/// Every Rust file, taken apart.
pub fn rust_files() -> Vec<(String, Source)> {
    let rust = files().into_iter().filter(|file| file.ends_with(".rs"));
    rust.filter_map(|file| Some((Source::parse(&text(&file)?), file)))
        .map(|(source, file)| (file, source))
        .collect()
}

/// Files that never reach the product: crates below `tests/`, a crate's own `tests/` and `examples/`, a `tests.rs` module.
pub fn is_test(file: &str) -> bool {
    file.starts_with("tests/")
        || file.contains("/tests/")
        || file.contains("/examples/")
        || file.ends_with("/tests.rs")
}

/// Fails with all breaches at once and with what to do about them.
pub fn forbid(breaches: &[String], remedy: &str) {
    assert!(breaches.is_empty(), "\n{}\n\n{remedy}\n", breaches.join("\n"));
}
