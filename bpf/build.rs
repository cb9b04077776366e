//! Compiles `programs/*.bpf.c` with clang and generates a skeleton `NAME.skel.rs` for each.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for watched in ["include", "programs"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let programs = here.join("programs");
    let entries = fs::read_dir(&programs).expect("programs/ is readable");
    for entry in entries.map(|entry| entry.expect("programs/ is readable")) {
        let source = entry.path();
        if let Some(name) = source
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.strip_suffix(".bpf.c"))
        {
            compile(&here, &source, &out.join(format!("{name}.skel.rs")));
        }
    }
}

fn compile(here: &Path, source: &Path, skeleton: &Path) {
    let built = SkeletonBuilder::new()
        .source(source)
        .clang_args(arguments(here))
        .build_and_generate(skeleton);
    if let Err(error) = built {
        panic!("{}: {error:#}", source.display());
    }
}

fn arguments(here: &Path) -> Vec<String> {
    let mut arguments = vec![
        format!("-I{}", here.join("include").display()),
        "-Wall".to_owned(),
        "-Wextra".to_owned(),
        "-Werror".to_owned(),
        // The oldest instruction set that has what the programs need, and that kernel 6.1 and clang 14 know.
        "-mcpu=v3".to_owned(),
    ];
    // Debian keeps asm/types.h in the architecture's own directory, which clang does not search for target bpf.
    if let Ok(architecture) = env::var("CARGO_CFG_TARGET_ARCH") {
        arguments.push(format!("-I/usr/include/{architecture}-linux-gnu"));
    }
    arguments
}
