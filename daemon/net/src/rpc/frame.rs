//! Follows Cap'n Proto's stream framing as bytes pass: where messages begin and end, how large they are, and what kind of
//! RPC message each one is. Pure; never allocates; takes any bytes.
//!
//! Framing (capnproto.org/encoding.html, "serialization over a stream"): segment count minus one and the sizes in words of
//! each segment, little-endian u32 each, padded to a word; then the segments.

/// Segments that capnp itself accepts in a message.
const SEGMENTS_MAX: u32 = 511;

/// Words of a message that are looked at: root pointer, union tag, pointer to the body, first word of the body, in
/// whatever order a builder has laid them out.
const PREFIX_WORDS: usize = 16;

const WORD: usize = 8;

/// What the message says, as far as limits care. Numbers as in rpc.capnp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Call or bootstrap; `None` if the id stands where we do not look.
    Question(Option<u32>),
    Return(Option<u32>),
    Finish(Option<u32>),
    Other,
}

/// A message has passed completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) kind: Kind,
    pub(crate) bytes: usize,
}

/// Why a stream can not be followed further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("message of {segments} segments, at most {SEGMENTS_MAX} are allowed")]
    TooManySegments { segments: u64 },
    #[error("message of {bytes} bytes announced, at most {limit} are allowed")]
    TooLarge { bytes: u64, limit: u64 },
}

#[derive(Debug)]
enum Stage {
    /// In the segment table: `have` bytes of the current word.
    Table {
        segments: Option<u32>,
        seen: u32,
        have: usize,
        word: [u8; WORD],
        words: u64,
    },
    Body {
        left: u64,
    },
}

impl Stage {
    const START: Self = Self::Table {
        segments: None,
        seen: 0,
        have: 0,
        word: [0; WORD],
        words: 0,
    };
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub(crate) struct Frames {
    limit: u64,
    stage: Stage,
    bytes: u64,
    first_segment_bytes: u64,
    prefix: [u8; PREFIX_WORDS * WORD],
    prefix_length: usize,
}

impl Frames {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self {
            limit: u64::try_from(message_bytes_max).unwrap_or(u64::MAX),
            stage: Stage::START,
            bytes: 0,
            first_segment_bytes: 0,
            prefix: [0; PREFIX_WORDS * WORD],
            prefix_length: 0,
        }
    }

    /// True between messages.
    pub(crate) fn at_boundary(&self) -> bool {
        self.bytes == 0
    }

    /// Follows `data`; tells `on_message` of each message that ends in it.
    pub(crate) fn follow(
        &mut self,
        mut data: &[u8],
        mut on_message: impl FnMut(Passed),
    ) -> Result<(), FrameError> {
        while !data.is_empty() {
            let taken = match self.stage {
                Stage::Table { .. } => self.follow_table(data)?,
                Stage::Body { .. } => self.follow_body(data),
            };
            self.bytes += taken as u64;
            data = &data[taken..];
            if matches!(self.stage, Stage::Body { left: 0 }) {
                let bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX);
                on_message(Passed {
                    kind: self.kind(),
                    bytes,
                });
                self.stage = Stage::START;
                self.bytes = 0;
                self.prefix_length = 0;
            }
        }
        Ok(())
    }

    fn follow_table(&mut self, data: &[u8]) -> Result<usize, FrameError> {
        let Stage::Table {
            segments,
            seen,
            have,
            word,
            words,
        } = &mut self.stage
        else {
            return Ok(0);
        };
        let taken = data.len().min(WORD - *have);
        word[*have..*have + taken].copy_from_slice(&data[..taken]);
        *have += taken;
        if *have < WORD {
            return Ok(taken);
        }
        *have = 0;
        let [low, high] = halves(word);
        let count = match *segments {
            None => {
                let count = u64::from(low) + 1;
                if count > u64::from(SEGMENTS_MAX) {
                    return Err(FrameError::TooManySegments { segments: count });
                }
                *segments = Some(low + 1);
                *seen = 1;
                *words = u64::from(high);
                self.first_segment_bytes = u64::from(high) * WORD as u64;
                low + 1
            }
            Some(count) => {
                // The last half may be padding.
                for size in [low, high] {
                    if *seen < count {
                        *seen += 1;
                        *words += u64::from(size);
                    }
                }
                count
            }
        };
        let bytes = *words * WORD as u64;
        if bytes > self.limit {
            return Err(FrameError::TooLarge {
                bytes,
                limit: self.limit,
            });
        }
        if *seen == count {
            self.stage = Stage::Body { left: bytes };
        }
        Ok(taken)
    }

    fn follow_body(&mut self, data: &[u8]) -> usize {
        let Stage::Body { left } = &mut self.stage else {
            return 0;
        };
        let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
        *left -= taken as u64;
        // Bytes of later segments may follow the first in the prefix; `kind` looks only as far as the first goes.
        let kept = taken.min(self.prefix.len() - self.prefix_length);
        self.prefix[self.prefix_length..self.prefix_length + kept].copy_from_slice(&data[..kept]);
        self.prefix_length += kept;
        taken
    }

    fn kind(&self) -> Kind {
        let length = usize::try_from(self.first_segment_bytes)
            .unwrap_or(usize::MAX)
            .min(self.prefix_length);
        let message = Segment(&self.prefix[..length]);
        let Some((tag, body)) = message.root() else {
            return Kind::Question(None);
        };
        let id = || message.first_data(body);
        match tag {
            2 | 8 => Kind::Question(id()),
            3 => Kind::Return(id()),
            4 => Kind::Finish(id()),
            _ => Kind::Other,
        }
    }
}

fn halves(word: &[u8; WORD]) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = *word;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// The visible beginning of a first segment.
struct Segment<'a>(&'a [u8]);

/// Position in words of a struct, and how many data words it has.
#[derive(Clone, Copy)]
struct Struct {
    at: usize,
    data_words: usize,
}

impl Segment<'_> {
    fn word(&self, index: usize) -> Option<[u32; 2]> {
        let at = index.checked_mul(WORD)?;
        let bytes = self.0.get(at..at.checked_add(WORD)?)?;
        Some(halves(bytes.try_into().ok()?))
    }

    /// Follows the struct pointer in word `index`. Far pointers, lists and null are not followed.
    fn pointed(&self, index: usize) -> Option<Struct> {
        let [low, high] = self.word(index)?;
        if low & 3 != 0 || (low == 0 && high == 0) {
            return None;
        }
        let offset = isize::try_from((low as i32) >> 2).ok()?;
        let at = index.checked_add(1)?.checked_add_signed(offset)?;
        Some(Struct {
            at,
            data_words: (high & 0xffff) as usize,
        })
    }

    /// Union tag of the RPC message, and where its body is.
    fn root(&self) -> Option<(u16, Option<Struct>)> {
        let root = self.pointed(0)?;
        let tag = if root.data_words == 0 {
            0
        } else {
            self.word(root.at)?[0] & 0xffff
        };
        let body = self.pointed(root.at.checked_add(root.data_words)?);
        Some((tag as u16, body))
    }

    /// The first 32 bits of the body: `questionId` or `answerId`. A struct without data has zeros.
    fn first_data(&self, body: Option<Struct>) -> Option<u32> {
        let body = body?;
        if body.data_words == 0 {
            return Some(0);
        }
        Some(self.word(body.at)?[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(sizes: &[u32]) -> Vec<u8> {
        let mut bytes = (u32::try_from(sizes.len()).unwrap() - 1).to_le_bytes().to_vec();
        for size in sizes {
            bytes.extend(size.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn follow_in_pieces(data: &[u8], piece: usize, limit: usize) -> Result<(Vec<Passed>, bool), FrameError> {
        let mut frames = Frames::new(limit);
        let mut passed = Vec::new();
        for part in data.chunks(piece) {
            frames.follow(part, |message| passed.push(message))?;
        }
        Ok((passed, frames.at_boundary()))
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut data = Vec::new();
        for sizes in [&[3_u32][..], &[1, 2], &[1, 0, 5], &[2, 2, 2, 2], &[0]] {
            data.extend(table(sizes));
            data.extend(vec![0_u8; 8 * sizes.iter().sum::<u32>() as usize]);
        }
        let whole = follow_in_pieces(&data, data.len(), 1 << 20).unwrap();
        assert_eq!(
            whole.0.iter().map(|message| message.bytes).collect::<Vec<_>>(),
            [32, 40, 64, 88, 8]
        );
        assert!(whole.1);
        for piece in 1..40 {
            assert_eq!(follow_in_pieces(&data, piece, 1 << 20).unwrap(), whole);
        }
        assert!(!follow_in_pieces(&data[..data.len() - 3], 7, 1 << 20).unwrap().1);
    }

    #[test]
    fn promises_beyond_the_limit_are_refused_in_the_table() {
        assert_eq!(
            follow_in_pieces(&table(&[17]), 1, 128),
            Err(FrameError::TooLarge {
                bytes: 136,
                limit: 128
            })
        );
        assert!(follow_in_pieces(&table(&[16]), 1, 128).is_ok());
        assert_eq!(
            follow_in_pieces(&table(&[8, 4, 5]), 4, 128),
            Err(FrameError::TooLarge {
                bytes: 136,
                limit: 128
            })
        );
        let every_size_maximal = table(&[u32::MAX; 511]);
        assert!(follow_in_pieces(&every_size_maximal, 64, usize::MAX).is_ok());
        assert_eq!(
            follow_in_pieces(&[0xff; 8], 8, usize::MAX),
            Err(FrameError::TooManySegments { segments: 1 << 32 })
        );
    }

    #[test]
    fn kinds_and_ids_are_seen() {
        // Root pointer; tag 2 (call); pointer to a body with one data word; question id 77.
        let words: [u64; 4] = [0x0001_0001_0000_0000, 2, 0x0000_0001_0000_0000, 77];
        let mut data = table(&[4]);
        data.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let (passed, _) = follow_in_pieces(&data, 5, 128).unwrap();
        assert_eq!(
            passed,
            [Passed {
                kind: Kind::Question(Some(77)),
                bytes: 40
            }]
        );
    }
}
