//! Every crash: after each write, flush, rename and removal of 200 operations, and for each of these with every choice
//! among three sectors that were on their way. What was acknowledged is there, what was not is there whole or not at
//! all, and nothing is taken for damage.

use replog::Store;

use crate::disk::{Disk, Event};
use crate::model::{Model, SMALL, entries, operations};

/// Sectors that the disk may have written in any order.
const WINDOW: usize = 3;

#[test]
fn every_crash_of_200_operations_keeps_what_was_acknowledged() {
    let crashes: usize = (20..24).map(every_crash).sum();
    println!("{crashes} crashes");
    assert!(crashes > 10_000, "only {crashes} crashes were tried");
}

fn every_crash(seed: u64) -> usize {
    let batches = operations(seed, 200);
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), SMALL).unwrap();
    // models[n]: what holds after n operations.
    let mut models = vec![Model::default()];
    for (operation, batch) in batches.iter().enumerate() {
        if store.spare_due() == SMALL.segment_bytes && operation % 3 == 0 {
            store.spare_maker().make().unwrap();
        }
        store.append(&entries(batch)).unwrap();
        disk.mark(operation + 1);
        let mut model = models[operation].clone();
        model.apply(batch);
        models.push(model);
        assert_eq!(
            Model::of(&store),
            models[operation + 1],
            "after operation {operation}"
        );
    }
    let events = disk.events.borrow().clone();
    let segments = events
        .iter()
        .filter(|event| matches!(event, Event::Rename { to, .. } if to.ends_with(".segment")));
    assert!(segments.count() > 5, "the walk has to cross segments");
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Remove { name } if name.ends_with(".segment")))
    );

    let mut crashes = 0;
    for length in 0..=events.len() {
        let acknowledged = events[..length].iter().rev().find_map(|event| {
            if let Event::Done(n) = event {
                Some(*n)
            } else {
                None
            }
        });
        let acknowledged = acknowledged.unwrap_or(0);
        let (files, unsynced) = Disk::after(&events[..length]);
        for first in 0..=unsynced.len() {
            let window = &unsynced[first..unsynced.len().min(first + WINDOW)];
            for choice in 0..1u32 << window.len() {
                let chosen = window
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| choice & 1 << at != 0)
                    .map(|(_, s)| s);
                let kept: Vec<_> = unsynced[..first].iter().chain(chosen).collect();
                let crashed = Disk::of(&files, &kept);
                crashes += 1;
                check(
                    &crashed,
                    &models,
                    acknowledged,
                    &format!("seed {seed}, event {length}, sector {first}, choice {choice}"),
                );
            }
        }
    }
    crashes
}

fn check(disk: &Disk, models: &[Model], acknowledged: usize, place: &str) {
    let (store, recovered) = Store::open(disk.clone(), SMALL).unwrap();
    assert_eq!(recovered.damage, [], "{place}: a crash is no damage");
    assert_eq!(recovered.restored, [], "{place}");
    let found = Model::of(&store);
    let next = (acknowledged + 1).min(models.len() - 1);
    let applied = if found == models[acknowledged] {
        acknowledged
    } else {
        assert_eq!(
            found, models[next],
            "{place}: neither as acknowledged nor with the next batch"
        );
        next
    };
    drop(store);
    // A start changes nothing that the next one sees, and what is written after it stays.
    let (mut store, again) = Store::open(disk.clone(), SMALL).unwrap();
    assert!(
        !again.torn && again.damage.is_empty(),
        "{place}: the second start found {again:?}"
    );
    assert_eq!(Model::of(&store), models[applied], "{place}: the second start");
    store.append(&[replog::Entry::Meta(b"after the crash")]).unwrap();
    let (store, last) = Store::open(disk.clone(), SMALL).unwrap();
    assert!(
        !last.torn && last.damage.is_empty(),
        "{place}: the third start found {last:?}"
    );
    let expected = Model {
        meta: b"after the crash".to_vec(),
        ..models[applied].clone()
    };
    assert_eq!(
        Model::of(&store),
        expected,
        "{place}: what was written after the crash"
    );
}

#[test]
fn a_crash_while_the_torn_end_is_repaired_changes_nothing() {
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), SMALL).unwrap();
    store.append(&[replog::Entry::Meta(b"kept")]).unwrap();
    let synced = disk.events.borrow().len();
    store
        .append(&[replog::Entry::Value {
            position: 1,
            flags: 0,
            bytes: &[7; 2000],
        }])
        .unwrap();
    // Written, not flushed, and the second sector is missing.
    let events = disk.events.borrow()[..synced + 1].to_vec();
    let (files, unsynced) = Disk::after(&events);
    assert!(unsynced.len() > 3);
    let kept: Vec<_> = unsynced
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != 1)
        .map(|(_, sector)| sector)
        .collect();
    let torn = Disk::of(&files, &kept);
    let before = torn.content("0000000000000001.segment");
    let (store, recovered) = Store::open(torn.clone(), SMALL).unwrap();
    assert!(recovered.torn && recovered.damage.is_empty());
    assert_eq!(store.meta(), b"kept");
    // The repair itself is torn: any of its sectors may be missing.
    let repair = torn.events.borrow().clone();
    let (_, zeroed) = Disk::after(&repair[..repair.len() - 1]);
    for choice in 0..1u32 << zeroed.len() {
        let half = Disk::default();
        let mut content = before.clone();
        for (_, (_, offset, bytes)) in zeroed.iter().enumerate().filter(|(at, _)| choice & 1 << at != 0) {
            content[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
        }
        half.set("0000000000000001.segment", content);
        let (store, recovered) = Store::open(half, SMALL).unwrap();
        assert_eq!(recovered.damage, [], "choice {choice}");
        assert_eq!(
            (store.meta(), store.positions().count()),
            (&b"kept"[..], 0),
            "choice {choice}"
        );
    }
}
