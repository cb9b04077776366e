//! The record of a command's end, in a file that its init wrote.
//!
//! Rules: a record that is read writes the same record; a shell's status is one. An odd first byte: the checksum is made
//! right first.

use container::status::{RECORD_BYTES, WaitRecord};

pub fn run(data: &[u8]) {
    let (kind, rest) = crate::choice(data);
    let mut bytes = [0; RECORD_BYTES];
    let count = rest.len().min(RECORD_BYTES);
    bytes[..count].copy_from_slice(&rest[..count]);
    if kind % 2 == 1 {
        let sum = crc32fast::hash(&bytes[..RECORD_BYTES - 4]);
        bytes[RECORD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(record) = WaitRecord::decode(&bytes) else {
        return;
    };
    assert_eq!(WaitRecord::decode(&record.encode()).ok(), Some(record));
    assert!((0..256).contains(&record.exit_status()), "{record:?}");
    assert!(
        record
            .signal()
            .is_none_or(|signal| record.exit_status() == 128 + signal)
    );
}
