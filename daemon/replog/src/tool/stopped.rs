//! A stopped replica's directory.

use std::path::Path;

use crate::directory::DiskDirectory;
use crate::ledger::Ledger;
use crate::store::Options;

/// Reads everything and changes nothing but what a start would: a torn end is cut off.
pub fn verify(path: &Path) -> Result<(), String> {
    if !path.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    let any = std::fs::read_dir(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if !any
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(".segment"))
    {
        return Err(format!("{} holds no segments of a log", path.display()));
    }
    let wrong = |error| format!("cannot use {}: {error}", path.display());
    let directory = DiskDirectory::open(path).map_err(wrong)?;
    let options = Options {
        segment_bytes: 64 << 20,
        new_id: 0,
    };
    let (ledger, found) = Ledger::open(directory, options).map_err(|error| error.to_string())?;
    let mut damage = found.details.damage.clone();
    for more in ledger.store().verify().map_err(|error| error.to_string())? {
        if !damage.iter().any(|known| known.segment == more.segment) {
            damage.push(more);
        }
    }
    let state = ledger.state();
    println!(
        "replica {}, {:?}, positions {} to {}",
        state.member.replica,
        state.status,
        state.begin,
        state.end()
    );
    if found.details.torn {
        println!("an unfinished write at the end was cut off");
    }
    if damage.is_empty() {
        println!("every byte is as it was written");
        return Ok(());
    }
    for damage in &damage {
        let what = if damage.sectors.is_empty() {
            "missing or unreadable".to_owned()
        } else {
            format!("sectors {:?}", damage.sectors)
        };
        println!("damaged: segment {}: {what}", damage.segment);
    }
    Err(format!(
        "{} segments are damaged; start the replica: it learns from the others again",
        damage.len()
    ))
}
