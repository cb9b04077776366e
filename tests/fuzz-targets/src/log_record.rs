//! What a replica of the log keeps on disk: values, and the record of status and promises.
//!
//! Rules: what is decoded encodes to something that decodes to the same.

use replog::codec::{decode_entry, decode_meta, encode_entry, encode_meta};

pub fn run(data: &[u8]) {
    let (kind, bytes) = crate::choice(data);
    if kind % 2 == 0 {
        let Ok(value) = decode_entry(bytes) else { return };
        let again = decode_entry(&encode_entry(&value)).expect("what was written can be read");
        assert_eq!(again, value);
    } else {
        let Ok(state) = decode_meta(bytes) else { return };
        let again = decode_meta(&encode_meta(&state)).expect("what was written can be read");
        assert_eq!(again, state);
    }
}
