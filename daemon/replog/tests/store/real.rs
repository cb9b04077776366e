//! The same on a real file system.

use replog::{DiskDirectory, Entry, Options, Store};

use crate::model::{Model, entries, operations};

#[test]
fn a_real_directory_holds_what_the_model_holds_over_many_starts() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 32 << 10,
        new_id: 5,
    };
    let mut model = Model::default();
    for (round, batches) in operations(11, 300).chunks(30).enumerate() {
        let (mut store, recovered) = Store::open(
            DiskDirectory::open(&directory.path().join("log")).unwrap(),
            options,
        )
        .unwrap();
        assert_eq!((recovered.created, recovered.damage.len()), (round == 0, 0));
        assert_eq!(Model::of(&store), model, "round {round}");
        for batch in batches {
            if store.spare_due() == options.segment_bytes {
                store.spare_maker().make().unwrap();
            }
            store.append(&entries(batch)).unwrap();
            model.apply(batch);
        }
        assert_eq!(Model::of(&store), model, "end of round {round}");
    }
}

#[test]
fn truncation_gives_the_disk_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let options = Options {
        segment_bytes: 64 << 10,
        new_id: 5,
    };
    let (mut store, _) = Store::open(DiskDirectory::open(&path).unwrap(), options).unwrap();
    for position in 1..=1000 {
        store
            .append(&[Entry::Value {
                position,
                flags: 1,
                bytes: &[3; 1000],
            }])
            .unwrap();
        if position % 50 == 0 {
            store.append(&[Entry::Begin(position - 10)]).unwrap();
        }
    }
    let bytes: u64 = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 5 * (64 << 10), "{bytes} bytes for 60 values of 1 kB");
}
