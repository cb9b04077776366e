//! What replicas of the log say to each other.
//!
//! Rules: what is decoded encodes to something that decodes to the same. The bytes are a message in stream framing.

use capnp::message::{Builder, ReaderOptions};
use replog::codec::{decode_envelopes, encode_envelope};
use wire::replog_capnp::parcel;

pub fn run(data: &[u8]) {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(1 << 20)).nesting_limit(16);
    let Ok(message) = capnp::serialize::read_message(&mut &*data, options) else {
        return;
    };
    let read = |reader: parcel::Reader<'_>| decode_envelopes(reader.get_envelopes()?);
    let Ok(Ok(envelopes)) = message.get_root().map(read) else {
        return;
    };
    let mut builder = Builder::new_default();
    let parcel: parcel::Builder<'_> = builder.init_root();
    let mut list = parcel.init_envelopes(envelopes.len() as u32);
    for (at, envelope) in (0..).zip(&envelopes) {
        encode_envelope(envelope, list.reborrow().get(at));
    }
    let written = builder.get_root_as_reader().expect("our own message");
    assert_eq!(read(written).expect("what was written can be read"), envelopes);
}
