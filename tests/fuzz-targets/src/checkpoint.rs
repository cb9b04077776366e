//! Checkpoints: files that an agent of any version left, or somebody else.
//!
//! Rules: what is decoded encodes to something that decodes to the same. An even first byte: the rest is a file; an odd
//! one: the rest is a message, to be sealed with a right checksum so that it is looked into.

use wire::checkpoint::{FORMAT_VERSION, decode, encode};

pub fn run(data: &[u8]) {
    let (kind, rest) = crate::choice(data);
    let decoded = if kind % 2 == 0 {
        decode(rest)
    } else {
        decode(&sealed(rest))
    };
    match decoded {
        Ok(checkpoint) => {
            let again = decode(&encode(&checkpoint)).expect("what was written can be read");
            assert_eq!(again, checkpoint);
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
}

/// A file with this message in it.
pub fn sealed(message: &[u8]) -> Vec<u8> {
    let mut bytes = b"BHck".to_vec();
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend((message.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(message);
    bytes.extend(hasher.finalize().to_le_bytes());
    bytes.extend(message);
    bytes
}
