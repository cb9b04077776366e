//! Entries of the registry, in a log that any program may have written.
//!
//! Rules: what is decoded encodes to something that decodes to the same. An even first byte: the rest is an entry of the
//! log; an odd one: a record's message, without the frame and its checksum.

use model::registry::Record;
use wire::registry::{Assembler, decode_message, encode, encode_parts};

pub fn run(data: &[u8]) {
    let (kind, bytes) = crate::choice(data);
    let record = if kind % 2 == 0 {
        Assembler::default().push(bytes).ok().flatten()
    } else {
        decode_message(bytes).ok()
    };
    let Some(record) = record else { return };
    assert_eq!(assemble(&encode(&record)), Some(record.clone()));
    assert_eq!(assemble(&encode_parts(&record, 64)), Some(record));
}

fn assemble(entries: &[Vec<u8>]) -> Option<Record> {
    let mut assembler = Assembler::default();
    let mut last = None;
    for entry in entries {
        assert!(last.is_none(), "a record ends with its last part");
        last = assembler.push(entry).expect("what was written can be read");
    }
    last
}
