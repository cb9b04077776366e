//! The wait status record as an earlier init wrote it (`tests/fixtures`): containers outlive agents, and so do their inits.

use container::status::{WaitRecord, read_status};
use std::fs::File;
use std::path::Path;

#[test]
fn a_record_of_version_1_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/checkpoint-v1/rootfs.status");
    let record = read_status(&File::open(&path).unwrap()).unwrap().unwrap();
    assert_eq!((record.exit_status(), record.signal()), (7, None));
    assert_eq!(record.raw_status, 7 << 8);
    assert_eq!(record.ended_at_ns / 1_000_000_000, ENDED_AT);
    assert!(record.used.max_rss_kb > 500 && record.used.user_micros < 1_000_000);
    // And written as it was read: a new init's record can be read by the agent that made this one.
    let bytes: [u8; 52] = std::fs::read(&path).unwrap().try_into().unwrap();
    assert_eq!(record.encode(), bytes);
    assert_eq!(WaitRecord::decode(&bytes).unwrap(), record);
}

/// Seconds since the epoch.
const ENDED_AT: u64 = 1_795_259_499;
