//! What was written and is no longer what was written is told, whatever it is, and never served.

use replog::{Directory, Entry, Options, Store, StoreError};

use crate::disk::Disk;
use crate::model::{Model, Owned, SMALL, entries, operations};

const FIRST: &str = "0000000000000001.segment";

/// Fills one segment of 64 KiB to three quarters.
fn filled() -> (Disk, Options) {
    let options = Options {
        segment_bytes: 64 << 10,
        new_id: 7,
    };
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), options).unwrap();
    store.append(&[Entry::Meta(b"promised 4")]).unwrap();
    for position in 1..=40 {
        store
            .append(&[Entry::Value {
                position,
                flags: 1,
                bytes: &[position as u8; 1000],
            }])
            .unwrap();
    }
    assert_eq!(disk.names(), [FIRST]);
    (disk, options)
}

#[test]
fn every_flipped_bit_of_the_first_half_of_a_segment_is_detected() {
    every_flipped_bit(0..32 << 10);
}

#[test]
fn every_flipped_bit_of_the_second_half_of_a_segment_is_detected() {
    every_flipped_bit(32 << 10..64 << 10);
}

fn every_flipped_bit(bytes: std::ops::Range<usize>) {
    let (disk, options) = filled();
    let content = disk.content(FIRST);
    assert_eq!(content.len(), 64 << 10);
    let flipped = Disk::default();
    let undetected: Vec<usize> = (bytes.start * 8..bytes.end * 8)
        .filter(|bit| {
            flipped.set(FIRST, content.clone());
            flipped.change(FIRST, bit / 8, 1 << (bit % 8));
            match Store::open(flipped.clone(), options) {
                Ok((_, recovered)) => recovered.damage.is_empty() && recovered.restored.is_empty(),
                Err(_) => false,
            }
        })
        .collect();
    assert_eq!(undetected, Vec::<usize>::new(), "of {} bits", bytes.len() * 8);
}

#[test]
fn a_damaged_head_is_restored_from_its_copy_and_the_other_way_round() {
    let (disk, options) = filled();
    let content = disk.content(FIRST);
    for at in [20, content.len() - 500] {
        let mut damaged = content.clone();
        damaged[at] ^= 0x40;
        disk.set(FIRST, damaged);
        let (store, recovered) = Store::open(disk.clone(), options).unwrap();
        assert_eq!(
            (recovered.restored.len(), recovered.damage.len()),
            (1, 0),
            "byte {at}"
        );
        assert_eq!(store.positions().count(), 40);
        assert_eq!(disk.content(FIRST), content, "byte {at} is as it was");
    }
}

#[test]
fn a_value_that_rotted_in_a_full_segment_is_not_served() {
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), SMALL).unwrap();
    for position in 1..=30 {
        store
            .append(&[Entry::Value {
                position,
                flags: 1,
                bytes: &[position as u8; 900],
            }])
            .unwrap();
    }
    let mut content = disk.content(FIRST);
    content[512 * 6 + 100] ^= 1;
    disk.set(FIRST, content);
    // The index says where values are, so the start doesn't read them.
    let (store, recovered) = Store::open(disk.clone(), SMALL).unwrap();
    assert_eq!(recovered.damage, []);
    let rotten: Vec<_> = (1..=30)
        .filter(|position| store.read(*position).is_err())
        .collect();
    assert_eq!(rotten.len(), 1, "{rotten:?}");
    let error = store.read(rotten[0]).unwrap_err();
    assert!(
        matches!(&error, StoreError::Rotten { position, file, .. } if *position == rotten[0] && file == FIRST)
    );
    let damage = store.verify().unwrap();
    assert_eq!(damage.len(), 1, "{damage:?}");
    // Repair keeps the others and says with its meta that this replica may have forgotten.
    let (store, recovered) = store.repair(&damage, b"recovering", u64::MAX).unwrap();
    assert_eq!((recovered.damage.len(), store.meta()), (0, &b"recovering"[..]));
    assert_eq!(store.verify().unwrap(), []);
    let left: Vec<_> = store.positions().map(|(position, _)| position).collect();
    let expected: Vec<_> = (1..=30).filter(|position| *position != rotten[0]).collect();
    assert_eq!(left, expected);
    for position in left {
        assert_eq!(store.read(position).unwrap(), [position as u8; 900]);
    }
}

/// Whatever one byte becomes anywhere in a store of many segments: nothing false is served, and after a repair
/// everything but the damaged batches is there.
#[test]
fn one_wrong_byte_anywhere_never_changes_a_value() {
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), SMALL).unwrap();
    let mut model = Model::default();
    for mut batch in operations(3, 120) {
        batch.retain(|entry| !matches!(entry, Owned::Begin(_)));
        store.append(&entries(&batch)).unwrap();
        model.apply(&batch);
    }
    drop(store);
    let names = disk.names();
    assert!(names.len() > 4, "{names:?}");
    for name in &names {
        let content = disk.content(name);
        for at in (0..content.len()).step_by(61) {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            let copy = Disk::default();
            names
                .iter()
                .for_each(|other| copy.set(other, disk.content(other)));
            copy.set(name, damaged);
            let place = format!("{name}, byte {at}");
            let (store, recovered) = Store::open(copy.clone(), SMALL).unwrap();
            let mut damage = recovered.damage.clone();
            if damage.is_empty() {
                assert_eq!(store.begin(), model.begin, "{place}");
                assert_eq!(store.meta(), model.meta, "{place}");
                damage = store.verify().unwrap();
            }
            for (position, flags) in store.positions() {
                match store.read(position) {
                    Err(_) => {}
                    // An older value or older flags are true of an earlier time: only after damage was told.
                    Ok(bytes) if recovered.damage.is_empty() => {
                        assert_eq!(Some(&(flags, bytes)), model.values.get(&position), "{place}");
                    }
                    Ok(_) => {}
                }
            }
            if !damage.is_empty() {
                let (store, again) = store.repair(&damage, b"recovering", u64::MAX).unwrap();
                assert_eq!(again.damage, [], "{place}: after the repair");
                assert_eq!(store.verify().unwrap(), [], "{place}: after the repair");
                assert_eq!(store.meta(), b"recovering", "{place}");
                let unreadable = store
                    .positions()
                    .filter(|(position, _)| store.read(*position).is_err())
                    .count();
                assert_eq!(unreadable, 0, "{place}: after the repair");
            }
        }
    }
}

#[test]
fn a_segment_that_is_gone_is_damage() {
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), SMALL).unwrap();
    for position in 1..=60 {
        store
            .append(&[Entry::Value {
                position,
                flags: 1,
                bytes: &[1; 900],
            }])
            .unwrap();
    }
    drop(store);
    disk.remove("0000000000000002.segment").unwrap();
    let (store, recovered) = Store::open(disk.clone(), SMALL).unwrap();
    assert_eq!(recovered.damage.len(), 1, "{recovered:?}");
    let (_, recovered) = store.repair(&recovered.damage, b"recovering", u64::MAX).unwrap();
    assert_eq!(recovered.damage, []);
}

#[test]
fn files_of_another_store_are_refused() {
    let (disk, options) = filled();
    let other = Disk::default();
    let (mut store, _) = Store::open(other.clone(), Options { new_id: 8, ..options }).unwrap();
    store.append(&[Entry::Meta(b"x")]).unwrap();
    disk.set("0000000000000002.segment", other.content(FIRST));
    let Err(error) = Store::open(disk, options) else {
        panic!("files of two stores were mixed")
    };
    assert!(
        matches!(
            error,
            StoreError::Foreign {
                expected: 7,
                found: 8,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn no_room_for_a_segment_loses_nothing_and_ends() {
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), SMALL).unwrap();
    disk.full.set(true);
    let mut position = 0;
    let error = loop {
        position += 1;
        match store.append(&[Entry::Value {
            position,
            flags: 0,
            bytes: &[9; 1000],
        }]) {
            Ok(()) => assert!(position < 100),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(
        store
            .append(&[Entry::Value {
                position,
                flags: 0,
                bytes: &[9; 1000]
            }])
            .is_err(),
        "still no room"
    );
    assert_eq!(store.positions().count() as u64, position - 1);
    disk.full.set(false);
    store
        .append(&[Entry::Value {
            position,
            flags: 0,
            bytes: &[9; 1000],
        }])
        .unwrap();
    let (store, recovered) = Store::open(disk, SMALL).unwrap();
    assert_eq!(
        (store.positions().count() as u64, recovered.damage.len()),
        (position, 0)
    );
}

#[test]
fn after_an_error_of_the_disk_nothing_more_is_taken() {
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk.clone(), SMALL).unwrap();
    store.append(&[Entry::Meta(b"before")]).unwrap();
    disk.broken.set(true);
    assert!(matches!(
        store.append(&[Entry::Meta(b"lost")]),
        Err(StoreError::Io { .. })
    ));
    disk.broken.set(false);
    let error = store.append(&[Entry::Meta(b"after")]).unwrap_err();
    assert!(matches!(error, StoreError::Stopped(_)), "{error}");
    assert_eq!(store.meta(), b"before");
}

#[test]
fn a_batch_larger_than_a_segment_is_refused_and_one_of_the_limit_fits() {
    let disk = Disk::default();
    let (mut store, _) = Store::open(disk, SMALL).unwrap();
    let most = store.batch_bytes_max();
    let bytes = vec![1; most + 1];
    assert!(matches!(
        store.append(&[Entry::Value {
            position: 1,
            flags: 0,
            bytes: &bytes
        }]),
        Err(StoreError::TooLarge { .. })
    ));
    let head = Entry::Value {
        position: 1,
        flags: 0,
        bytes: &[],
    }
    .encoded_bytes();
    store
        .append(&[Entry::Value {
            position: 1,
            flags: 0,
            bytes: &bytes[..most - head],
        }])
        .unwrap();
    store
        .append(&[Entry::Value {
            position: 2,
            flags: 0,
            bytes: &bytes[..most - head],
        }])
        .unwrap();
    assert_eq!(store.read(2).unwrap().len(), most - head);
}
