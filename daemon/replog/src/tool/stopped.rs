//! A stopped replica's directory.

use std::path::Path;

use crate::directory::DiskDirectory;
use crate::ledger::{Found, Ledger};
use crate::salvage::{self, SalvageError};
use crate::store::{Damage, Options};

/// What is there, as a start finds it: a torn end is cut off, nothing else is changed.
fn open(path: &Path) -> Result<(Ledger<DiskDirectory>, Found), String> {
    if !path.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    let entries =
        std::fs::read_dir(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let segments: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".segment"))
        .collect();
    if segments.is_empty() {
        return Err(format!("{} holds no segments of a log", path.display()));
    }
    // A segment that is made here is as large as those that are there.
    let bytes = segments
        .iter()
        .filter_map(|entry| entry.metadata().ok())
        .map(|of| of.len());
    let wrong = |error| format!("cannot use {}: {error}", path.display());
    let directory = DiskDirectory::open(path).map_err(wrong)?;
    let options = Options {
        segment_bytes: bytes.max().unwrap_or_default().max(1 << 20),
        new_id: 0,
    };
    Ledger::open(directory, options).map_err(|error| error.to_string())
}

/// Says what of a log with one replica is lost; with `accept_loss`, goes on without it.
pub fn salvage(path: &Path, accept_loss: bool) -> Result<(), String> {
    let (ledger, found) = open(path)?;
    let told = |error: SalvageError| format!("{}: {error}", path.display());
    let loss = salvage::loss(&ledger, &found).map_err(told)?;
    tell(&loss.damage);
    let kept = match loss.kept >= loss.begin {
        true => format!("positions {} to {} are whole", loss.begin, loss.kept),
        false => "no position is left".to_owned(),
    };
    if loss.is_none() {
        println!("{kept}; nothing is lost");
        return Ok(());
    }
    let lost = match loss.known > loss.kept {
        true => format!(
            "lost: {} to {}, and what may have been behind",
            loss.kept.next(),
            loss.known
        ),
        false => "what may have been behind is not known".to_owned(),
    };
    println!("{kept}; {lost}");
    if !accept_loss {
        return Err(
            "nothing was changed. Bring back a copy of the directory if there is one. With --accept-loss the log ends behind what is \
             whole: a registry is then as it was at that time. Agents that were admitted since are unknown to it, and told to end \
             their tasks, unless the master is started with --registry-strict=false; those marked gone since are let in again"
                .to_owned(),
        );
    }
    let ledger = salvage::accept(ledger, &loss).map_err(told)?;
    let state = ledger.state();
    println!(
        "the log ends at position {} now; start its program again",
        state.end()
    );
    Ok(())
}

fn tell(damage: &[Damage]) {
    for damage in damage {
        let what = if damage.sectors.is_empty() {
            "missing or unreadable".to_owned()
        } else {
            format!("sectors {:?}", damage.sectors)
        };
        println!("damaged: segment {}: {what}", damage.segment);
    }
}

/// Reads everything and changes nothing but what a start would: a torn end is cut off.
pub fn verify(path: &Path) -> Result<(), String> {
    let (ledger, found) = open(path)?;
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
    tell(&damage);
    Err(format!(
        "{} segments are damaged; start the replica: it learns from the others again, or if it has none, see `bulkhead log salvage`",
        damage.len()
    ))
}
