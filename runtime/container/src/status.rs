//! How a command ended, as its init wrote it: one record of fixed size at the start of a file that
//! the agent made beforehand on a tmpfs.
//!
//! ```text
//! magic (8) | raw wait status (i32) | reserved (4) | ended at, ns since the epoch (u64)
//! | user us (u64) | system us (u64) | largest resident set, kB (u64) | crc32 of all before (u32)
//! ```
//! All little endian. A record that is cut or whose checksum is wrong is no record. Zeroes: none yet, and the command has
//! not been started. Before it is, the init puts another magic there and zeroes ([`START`]).
//!
//! What it says is what the container's command says, and no more to be trusted: with SYS_PTRACE in the
//! container somebody there can write another one into the init's memory. Only its size is certain.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kernel::process::{Exit, ResourceUse};

/// Also the version: another layout gets another last letter.
const MAGIC: [u8; 8] = *b"BHWAIT1\0";
const START_MAGIC: [u8; 8] = *b"BHSTART1";
pub const RECORD_BYTES: usize = 52;
/// In place of a record, from just before the command is started until it has ended.
pub const START: [u8; RECORD_BYTES] = {
    let mut bytes = [0; RECORD_BYTES];
    let mut at = 0;
    while at < START_MAGIC.len() {
        bytes[at] = START_MAGIC[at];
        at += 1;
    }
    bytes
};
const CHECKED_BYTES: usize = RECORD_BYTES - 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitRecord {
    /// As wait(2) gave it.
    pub raw_status: i32,
    /// Nanoseconds since the epoch.
    pub ended_at_ns: u64,
    pub used: ResourceUse,
}

impl WaitRecord {
    /// The command's own status; 128+signal when a signal ended it.
    pub fn exit_status(&self) -> i32 {
        Exit::from_raw(self.raw_status).shell_status()
    }
    pub fn signal(&self) -> Option<i32> {
        match Exit::from_raw(self.raw_status) {
            Exit::Signaled { signal, .. } => Some(signal),
            Exit::Exited(_) => None,
        }
    }

    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.raw_status.to_le_bytes());
        let words = [
            self.ended_at_ns,
            self.used.user_micros,
            self.used.system_micros,
            self.used.max_rss_kb,
        ];
        for (at, word) in words.into_iter().enumerate() {
            bytes[16 + at * 8..24 + at * 8].copy_from_slice(&word.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Self, StatusError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return Err(StatusError::Foreign);
        }
        if word(CHECKED_BYTES) != crc32fast::hash(&bytes[..CHECKED_BYTES]) {
            return Err(StatusError::Damaged);
        }
        Ok(Self {
            raw_status: word(8) as i32,
            ended_at_ns: long(16),
            used: ResourceUse {
                user_micros: long(24),
                system_micros: long(32),
                max_rss_kb: long(40),
            },
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("read the wait status record")]
    Read(#[source] io::Error),
    #[error("the wait status record is cut after {0} bytes")]
    Cut(usize),
    #[error("the file holds no wait status record")]
    Foreign,
    #[error("the checksum of the wait status record is wrong")]
    Damaged,
}

/// The record; `None` while the file is empty or has none: the command has not ended, or its init was killed.
pub fn read_status(file: &File) -> Result<Option<WaitRecord>, StatusError> {
    match read(file)? {
        None | Some(START) => Ok(None),
        Some(bytes) => WaitRecord::decode(&bytes).map(Some),
    }
}

/// False: the command was never started, nor will be once its init is gone.
pub fn has_started(file: &File) -> Result<bool, StatusError> {
    read(file).map(|bytes| bytes.is_some())
}

/// `None`: nothing but zeroes.
fn read(file: &File) -> Result<Option<[u8; RECORD_BYTES]>, StatusError> {
    let mut bytes = [0; RECORD_BYTES];
    let mut length = 0;
    while length < RECORD_BYTES {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) if length == 0 => return Ok(None),
            Ok(0) => return Err(StatusError::Cut(length)),
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StatusError::Read(error)),
        }
    }
    Ok((bytes != [0; RECORD_BYTES]).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_survives_its_encoding(raw in any::<i32>(), at in any::<u64>(), user in any::<u64>()) {
            let used = ResourceUse { user_micros: user, system_micros: 1, max_rss_kb: 2 };
            let record = WaitRecord { raw_status: raw, ended_at_ns: at, used };
            prop_assert_eq!(WaitRecord::decode(&record.encode()).unwrap(), record);
        }

        #[test]
        fn no_flipped_bit_goes_unseen(bit in 0..RECORD_BYTES * 8) {
            let record = WaitRecord { raw_status: 256, ended_at_ns: 5, used: ResourceUse::default() };
            let mut bytes = record.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(WaitRecord::decode(&bytes).is_err());
        }
    }

    #[test]
    fn empty_cut_and_whole_files_are_told_apart() {
        let file = tempfile::tempfile().unwrap();
        assert!(read_status(&file).unwrap().is_none());
        let record = WaitRecord {
            raw_status: 9,
            ended_at_ns: 1,
            used: ResourceUse::default(),
        };
        file.write_all_at(&record.encode()[..20], 0).unwrap();
        assert!(matches!(read_status(&file), Err(StatusError::Cut(20))));
        file.write_all_at(&[0; RECORD_BYTES], 0).unwrap();
        assert!(read_status(&file).unwrap().is_none());
        file.write_all_at(&record.encode(), 0).unwrap();
        let read = read_status(&file).unwrap().unwrap();
        assert_eq!((read.exit_status(), read.signal()), (137, Some(9)));
    }
}
