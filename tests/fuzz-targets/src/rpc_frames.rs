//! Framing of RPC messages.
//!
//! Rules: messages are the same however the stream is cut; what is held is bounded by what has arrived; a message
//! written anew is the bytes that came.

use capnp::message::ReaderSegments as _;
use net::rpc::frame::{Assembler, FrameError, Limits, Message, kind, write_table};

const LIMIT: usize = 64 << 10;

/// Set aside for a message that has only begun.
const FIRST_BYTES: usize = 4096;

pub fn run(data: &[u8]) {
    let (piece, stream) = crate::choice(data);
    let _ = kind(stream);
    let whole = assemble(stream, stream.len().max(1));
    let pieces = assemble(stream, usize::from(piece).max(1));
    assert_eq!(whole, pieces);
    if let Ok((messages, consumed)) = whole {
        // The same bytes, but for the padding of tables, which may be anything.
        assert_eq!(messages.concat().len(), consumed);
    }
}

/// Complete messages as bytes, and how many bytes of the stream they took.
fn assemble(stream: &[u8], piece: usize) -> Result<(Vec<Vec<u8>>, usize), FrameError> {
    let limits = Limits {
        maximum: LIMIT,
        present: LIMIT,
    };
    let mut assembler = Assembler::default();
    let mut messages = Vec::new();
    let (mut at, mut complete) = (0, 0);
    for part in stream.chunks(piece) {
        let mut part = part;
        while !part.is_empty() {
            let (taken, message) = assembler.feed(part, limits)?;
            assert!(taken > 0 && taken <= part.len());
            part = &part[taken..];
            at += taken;
            assert!(assembler.held() <= (2 * (at - complete)).clamp(FIRST_BYTES, LIMIT));
            if let Some(message) = message {
                complete = at;
                messages.push(bytes(&message));
            }
        }
    }
    Ok((messages, complete))
}

fn bytes(message: &Message) -> Vec<u8> {
    let _ = message.kind();
    let segments: Vec<&[u8]> = (0..message.len())
        .map(|index| {
            message
                .get_segment(index as u32)
                .expect("a segment that was counted")
        })
        .collect();
    assert!(message.get_segment(message.len() as u32).is_none());
    let mut bytes = Vec::new();
    write_table(&segments, &mut bytes);
    for segment in &segments {
        bytes.extend_from_slice(segment);
    }
    assert_eq!(bytes.len(), message.bytes());
    bytes
}
