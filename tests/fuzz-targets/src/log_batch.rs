//! Batches of the replicated log, as a torn write may leave them.
//!
//! Rules: what is decoded encodes to the same bytes; an entry lies where it says.

use replog::batch::{decode, encode, stream_bytes};

pub fn run(data: &[u8]) {
    let Some(placed) = decode(data) else { return };
    let total = stream_bytes(data).expect("a batch has a head");
    let entries: Vec<_> = placed.iter().map(|placed| placed.entry).collect();
    let again = encode(&entries);
    assert_eq!(again.len(), total);
    // Reserved bytes aside, it is the same.
    let back = decode(&again).expect("what was written can be read");
    assert_eq!(back, placed);
}
