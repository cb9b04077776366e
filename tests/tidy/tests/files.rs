//! How files are named, how long they are, what they may not say.

use std::os::unix::fs::PermissionsExt;

use tidy::tree::{self, forbid};

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 9] = [
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "util",
    "utils",
    "utilities",
];

#[test]
fn files_are_named_after_what_is_in_them() {
    let breaches: Vec<String> = tree::files()
        .into_iter()
        .filter(|file| {
            file.split(['/', '.', '_', '-'])
                .any(|word| EMPTY_NAMES.contains(&word))
        })
        .collect();
    forbid(
        &breaches,
        "Name the file after the noun that it holds; if it holds several, it is several files.",
    );
}

const LINES_MAX: usize = 800;
const LINES_TO_LOOK_AT: usize = 500;

#[test]
fn no_file_is_too_long() {
    let (mut breaches, mut long) = (Vec::new(), Vec::new());
    for file in tree::files().iter().filter(|file| {
        [".rs", ".c", ".h", ".capnp"]
            .iter()
            .any(|end| file.ends_with(end))
    }) {
        let lines = tree::text(file).unwrap_or_default().lines().count();
        match lines {
            _ if lines > LINES_MAX => breaches.push(format!("{file}: {lines} lines")),
            _ if lines > LINES_TO_LOOK_AT => long.push(format!("{file}: {lines} lines")),
            _ => {}
        }
    }
    if !long.is_empty() {
        println!(
            "past {LINES_TO_LOOK_AT} lines, look for the second noun:\n{}",
            long.join("\n")
        );
    }
    forbid(
        &breaches,
        &format!("More than {LINES_MAX} lines: find the second noun and give it a file."),
    );
}

/// Pieces, so that this file does not hold the words itself: `(word, what to do)`.
const WORDS: &[(&[&str], &str)] = &[
    (&["/wo", "rk/main"], "a path of one machine"),
    (&["/wo", "rk/shared"], "a path of one machine"),
    (&["/wo", "rk/."], "a path of one machine"),
    (&["/tmp/cont", "racts"], "a path of one machine"),
    (&["iss", "ue #"], "say what was wrong, not where it was noted"),
    (
        &["in this sess", "ion"],
        "say what the product does, not how it came to be",
    ),
    (
        &["previous sess", "ion"],
        "say what the product does, not how it came to be",
    ),
    (
        &["last sess", "ion"],
        "say what the product does, not how it came to be",
    ),
    (&["anthr", "opic"], "name no tool that wrote it"),
    (&["cla", "ude"], "name no tool that wrote it"),
    (&["chat", "gpt"], "name no tool that wrote it"),
    (&["open", "ai"], "name no tool that wrote it"),
    (&["cop", "ilot"], "name no tool that wrote it"),
    (&["language mo", "del"], "name no tool that wrote it"),
    (&["ai-gener", "ated"], "name no tool that wrote it"),
];

#[test]
fn the_tree_speaks_of_the_product_only() {
    let words: Vec<(String, &str)> = WORDS
        .iter()
        .map(|(pieces, reason)| (pieces.concat(), *reason))
        .collect();
    let mut breaches = Vec::new();
    for file in tree::files()
        .iter()
        .filter(|file| *file != "Cargo.lock" && *file != "LICENSE")
    {
        let text = tree::text(file).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            let found = words.iter().filter(|(word, _)| line.contains(word.as_str()));
            breaches.extend(found.map(|(word, reason)| format!("{file}:{}: {word:?}: {reason}", number + 1)));
        }
    }
    forbid(
        &breaches,
        "Rewrite the line so that it is true on any machine and for any reader.",
    );
}

#[test]
fn scripts_can_be_run() {
    let mut breaches = Vec::new();
    for file in tree::files()
        .iter()
        .filter(|file| file.starts_with("scripts/") || *file == ".ci/run")
    {
        let mode = std::fs::metadata(tree::root().join(file))
            .map(|meta| meta.permissions().mode())
            .unwrap_or(0);
        let text = tree::text(file).unwrap_or_default();
        // A library that others source has no first line of its own and is not run.
        if file.ends_with(".sh") {
            continue;
        }
        if mode & 0o111 == 0 || !text.starts_with("#!") {
            breaches.push(format!("{file}: not executable, or no #! line"));
        }
    }
    forbid(&breaches, "chmod +x, and begin it with #!/usr/bin/env bash.");
}
