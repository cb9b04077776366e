//! The crates of the workspace and what each depends on, by `cargo metadata`.

use std::process::Command;

use serde_json::Value;

use crate::tree;

pub struct Crate {
    pub name: String,
    /// Directory relative to the root.
    pub directory: String,
    pub dependencies: Vec<Dependency>,
}

pub struct Dependency {
    pub name: String,
    pub kind: Kind,
    /// A crate of this workspace.
    pub ours: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Build,
    Dev,
}

impl Crate {
    pub fn is_test(&self) -> bool {
        self.directory.starts_with("tests/")
    }
}

pub fn all() -> Vec<Crate> {
    let root = tree::root();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(&root)
        .output()
        .expect("run cargo metadata");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("metadata lists packages");
    packages
        .iter()
        .map(|package| {
            let manifest = package["manifest_path"].as_str().unwrap_or_default();
            let directory = manifest
                .trim_end_matches("/Cargo.toml")
                .trim_start_matches(&*root.to_string_lossy());
            let dependencies = package["dependencies"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            Crate {
                name: package["name"].as_str().unwrap_or_default().to_string(),
                directory: directory.trim_start_matches('/').to_string(),
                dependencies: dependencies.iter().map(dependency).collect(),
            }
        })
        .collect()
}

fn dependency(value: &Value) -> Dependency {
    Dependency {
        name: value["name"].as_str().unwrap_or_default().to_string(),
        kind: match value["kind"].as_str() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        },
        ours: !value["path"].is_null(),
    }
}
