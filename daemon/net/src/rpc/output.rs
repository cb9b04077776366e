//! What is on its way to the peer: small messages gathered into one buffer, large ones as they are.

use std::collections::VecDeque;
use std::rc::Rc;

use capnp::message::{Builder, HeapAllocator};

use super::frame;

/// Messages up to this are copied together; larger ones are written from where they stand.
const GATHERED_MAX: usize = 16 << 10;

/// An emptied buffer keeps at most this.
const KEPT: usize = 16 << 10;

/// Bytes and messages in the order in which they were sent.
#[derive(Default)]
pub(super) struct Output {
    /// The first bytes to go, and how many of them are gone.
    buffer: Vec<u8>,
    at: usize,
    /// Behind the buffer.
    queue: VecDeque<Piece>,
    waiting: usize,
}

enum Piece {
    Gathered(Vec<u8>),
    Large {
        message: Rc<Builder<HeapAllocator>>,
        segment: usize,
        at: usize,
    },
}

impl Output {
    /// Bytes that are not written yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn push(&mut self, message: &Rc<Builder<HeapAllocator>>, segments: &[&[u8]], bytes: usize) {
        self.waiting += bytes;
        let tail = match self.queue.back_mut() {
            None => &mut self.buffer,
            Some(Piece::Gathered(tail)) => tail,
            Some(Piece::Large { .. }) => {
                self.queue.push_back(Piece::Gathered(Vec::new()));
                match self.queue.back_mut() {
                    Some(Piece::Gathered(tail)) => tail,
                    _ => return,
                }
            }
        };
        frame::write_table(segments, tail);
        if bytes <= GATHERED_MAX {
            for segment in segments {
                tail.extend_from_slice(segment);
            }
        } else {
            self.queue.push_back(Piece::Large {
                message: Rc::clone(message),
                segment: 0,
                at: 0,
            });
        }
    }

    /// Gives `write` the next bytes, until nothing is left or it returns `None`, else how many it took.
    pub(super) fn drain(&mut self, mut write: impl FnMut(&[u8]) -> Option<usize>) {
        while self.waiting > 0 {
            if self.at < self.buffer.len() {
                let Some(count) = write(&self.buffer[self.at..]) else {
                    return;
                };
                self.at += count;
                self.waiting -= count;
                continue;
            }
            match self.queue.front_mut() {
                Some(Piece::Gathered(next)) => {
                    self.buffer = std::mem::take(next);
                    self.at = 0;
                    self.queue.pop_front();
                }
                Some(Piece::Large { message, segment, at }) => {
                    let segments = message.get_segments_for_output();
                    match segments.get(*segment) {
                        Some(bytes) if *at < bytes.len() => {
                            let Some(count) = write(&bytes[*at..]) else { return };
                            *at += count;
                            self.waiting -= count;
                        }
                        Some(_) => {
                            *segment += 1;
                            *at = 0;
                        }
                        None => {
                            drop(segments);
                            self.queue.pop_front();
                        }
                    }
                }
                None => break,
            }
        }
        self.clear();
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        self.at = 0;
        self.queue.clear();
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(words: u32) -> Rc<Builder<HeapAllocator>> {
        let mut message = Builder::new(HeapAllocator::new().first_segment_words(4));
        let mut list = message
            .init_root::<capnp::any_pointer::Builder<'_>>()
            .initn_as::<capnp::primitive_list::Builder<'_, u64>>(words);
        for index in 0..words {
            list.set(index, u64::from(index) | 1 << 40);
        }
        Rc::new(message)
    }

    #[test]
    fn messages_large_and_small_leave_in_order_however_they_are_taken() {
        for piece in [1, 7, 1000, 5000, 1 << 20] {
            let mut output = Output::default();
            let mut expected = Vec::new();
            let mut written = Vec::new();
            for (index, words) in [1, 5000, 3, 4, 9000, 9000, 2].into_iter().enumerate() {
                let message = message(words);
                let segments = message.get_segments_for_output();
                let bytes = frame::table_bytes(segments.len()) + segments.concat().len();
                output.push(&message, &segments, bytes);
                expected.extend(capnp::serialize::write_message_to_words(&*message));
                // Some of it leaves in between.
                let mut turns = index;
                output.drain(|bytes| {
                    turns = turns.checked_sub(1)?;
                    let count = bytes.len().min(piece);
                    written.extend_from_slice(&bytes[..count]);
                    Some(count)
                });
                assert_eq!(output.waiting(), expected.len() - written.len());
            }
            output.drain(|bytes| {
                let count = bytes.len().min(piece);
                written.extend_from_slice(&bytes[..count]);
                Some(count)
            });
            assert!(output.waiting() == 0 && written == expected);
        }
    }
}
