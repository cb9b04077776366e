//! The core's values as Cap'n Proto and back. Decoding trusts nothing: what is malformed, of an unknown kind or beyond
//! the bounds is a [`DecodeError`] that names the field; never a panic, never a guess.

mod message;
mod status;
mod value;

pub use message::{decode_envelope, decode_envelopes, encode_envelope};
pub use status::{decode_status, encode_status};
pub use value::{
    decode_entry, decode_meta, encode_entry, encode_entry_into, encode_meta, get_ballot as decode_ballot,
    get_entries as decode_entries, get_membership as decode_membership, put_ballot as encode_ballot,
    put_entries as encode_entries, put_membership as encode_membership,
};

use capnp::message::ReaderOptions;

/// Values of one message, and members of one membership: what the core puts in at most, with room.
const VALUES_MAX: u32 = 16_384;
const MEMBERS_MAX: u32 = replog_core::MEMBERS_MAX as u32;
const IDS_MAX: u32 = 64;

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("malformed: {0}")]
    Malformed(#[from] capnp::Error),
    #[error("text is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
    #[error("{0}: of a kind that this program does not know")]
    Unknown(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} has {length} entries, {max} are allowed")]
    TooMany {
        field: &'static str,
        length: u32,
        max: u32,
    },
}

fn check(field: &'static str, length: u32, max: u32) -> Result<(), DecodeError> {
    if length > max {
        Err(DecodeError::TooMany { field, length, max })
    } else {
        Ok(())
    }
}

/// For bytes that lie in memory whole: they can't be larger than they are.
fn options(bytes: usize) -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(bytes / 8 * 4 + 1024));
    options.nesting_limit(16);
    options
}
