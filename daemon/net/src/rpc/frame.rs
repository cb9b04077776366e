//! Cap'n Proto's stream framing: puts messages together as bytes arrive, and tells what kind of RPC message each one is.
//! Pure; takes any bytes; never holds more than twice what has arrived, whatever a header promises.
//!
//! Framing (capnproto.org/encoding.html, "serialization over a stream"): segment count minus one and the sizes in words of
//! each segment, little-endian u32 each, padded to a word; then the segments.

use capnp::Word;
use capnp::message::ReaderSegments;

/// Segments that capnp itself accepts in a message.
const SEGMENTS_MAX: u32 = 511;

const WORD: usize = 8;

/// So much is set aside for a message that has only begun to arrive; from there it grows with what comes.
const FIRST_WORDS: usize = 512;

/// What the message says, as far as limits care. Numbers as in rpc.capnp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Call or bootstrap; `None` if the id stands where we do not look.
    Question(Option<u32>),
    /// `last`: no finish will follow.
    Return {
        id: Option<u32>,
        last: bool,
    },
    Finish(Option<u32>),
    Other,
}

/// Why a stream can not be followed further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("message of {segments} segments, at most {SEGMENTS_MAX} are allowed")]
    TooManySegments { segments: u64 },
    #[error("message of {bytes} bytes announced, at most {limit} are allowed")]
    TooLarge { bytes: u64, limit: u64 },
}

/// How large a message may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub maximum: usize,
    /// As long as it is not known who the peer is.
    pub present: usize,
}

/// A message that has arrived.
#[derive(Debug)]
pub struct Message {
    words: Vec<Word>,
    /// Where the first segment ends, in words.
    first_end: usize,
    /// The further segments, in words.
    further: Vec<(usize, usize)>,
}

impl Message {
    /// With its segment table.
    pub fn bytes(&self) -> usize {
        table_bytes(1 + self.further.len()) + self.words.len() * WORD
    }

    pub fn kind(&self) -> Kind {
        kind(self.part(0, self.first_end))
    }

    fn part(&self, start: usize, end: usize) -> &[u8] {
        Word::words_to_bytes(self.words.get(start..end).unwrap_or_default())
    }
}

impl ReaderSegments for Message {
    fn get_segment(&self, index: u32) -> Option<&[u8]> {
        if index == 0 {
            return Some(self.part(0, self.first_end));
        }
        let (start, end) = *self.further.get(index as usize - 1)?;
        Some(self.part(start, end))
    }

    fn len(&self) -> usize {
        1 + self.further.len()
    }
}

/// Length of the segment table of a message.
pub fn table_bytes(segments: usize) -> usize {
    (segments + 1).next_multiple_of(2) * 4
}

/// Writes the segment table of a message of our own.
pub fn write_table(segments: &[&[u8]], output: &mut Vec<u8>) {
    let mut put =
        |number: usize| output.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    put(segments.len() - 1);
    for segment in segments {
        put(segment.len() / WORD);
    }
    if segments.len().is_multiple_of(2) {
        put(0);
    }
}

/// Puts together the messages of one direction.
#[derive(Debug, Default)]
pub struct Assembler {
    /// Bytes of the current word of the segment table.
    table_have: usize,
    table_word: [u8; WORD],
    /// Number of segments, once known.
    count: Option<u32>,
    /// Ends of the segments seen so far, in words.
    ends: Vec<usize>,
    /// Size of the whole body in bytes, once the table is complete.
    total: Option<usize>,
    body: Vec<Word>,
    filled: usize,
}

impl Assembler {
    /// True between messages.
    pub fn at_boundary(&self) -> bool {
        self.count.is_none() && self.table_have == 0
    }

    /// Memory of the message that is arriving.
    pub fn held(&self) -> usize {
        self.body.len() * WORD
    }

    /// Takes bytes up to the end of a message: how many, and the message if it is complete. A message that announces
    /// more than `limits.maximum` bytes is refused; of one beyond `limits.present` only the table is taken.
    pub fn feed(&mut self, data: &[u8], limits: Limits) -> Result<(usize, Option<Message>), FrameError> {
        let mut taken = 0;
        let total = loop {
            match self.total {
                Some(total) => break total,
                None if taken == data.len() => return Ok((taken, None)),
                None => taken += self.feed_table(&data[taken..], limits.maximum)?,
            }
        };
        if total > limits.present {
            return Ok((taken, None));
        }
        let mut rest = &data[taken..];
        rest = &rest[..rest.len().min(total - self.filled)];
        taken += rest.len();
        if self.filled == 0 && rest.len() == total {
            self.body.reserve_exact(total / WORD);
            self.body.extend(rest.chunks_exact(WORD).map(to_word));
            self.filled = total;
            rest = &[];
        }
        while !rest.is_empty() {
            let room = self.room();
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            self.filled += count;
            rest = &rest[count..];
        }
        Ok((taken, self.complete()))
    }

    /// Size of the body of the message that is arriving, once its table is complete.
    pub fn announced(&self) -> usize {
        self.total.unwrap_or(0)
    }

    /// How many bytes of the body are still to come.
    pub fn missing(&self) -> usize {
        self.total.map_or(0, |total| total - self.filled)
    }

    /// Room for the next bytes of the body, to be read into; [`Self::advance`] tells how many there were.
    pub fn room(&mut self) -> &mut [u8] {
        let total = self.total.unwrap_or(0) / WORD;
        if self.filled == self.body.len() * WORD && self.body.len() < total {
            let grown = (self.body.len() * 2).max(FIRST_WORDS).min(total);
            self.body.reserve_exact(grown - self.body.len());
            self.body.resize(grown, to_word(&[0; WORD]));
        }
        &mut Word::words_to_bytes_mut(&mut self.body)[self.filled..]
    }

    /// Bytes have been put into [`Self::room`].
    pub fn advance(&mut self, count: usize) -> Option<Message> {
        self.filled += count;
        self.complete()
    }

    fn complete(&mut self) -> Option<Message> {
        if self.total != Some(self.filled) {
            return None;
        }
        let first_end = self.ends.first().copied().unwrap_or(0);
        let further = self.ends.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let message = Message {
            words: std::mem::take(&mut self.body),
            first_end,
            further,
        };
        self.ends.clear();
        self.count = None;
        self.total = None;
        self.filled = 0;
        Some(message)
    }

    fn feed_table(&mut self, data: &[u8], limit: usize) -> Result<usize, FrameError> {
        let taken = data.len().min(WORD - self.table_have);
        self.table_word[self.table_have..self.table_have + taken].copy_from_slice(&data[..taken]);
        self.table_have += taken;
        if self.table_have < WORD {
            return Ok(taken);
        }
        self.table_have = 0;
        let [low, high] = halves(&self.table_word);
        let count = match self.count {
            None => {
                let count = u64::from(low) + 1;
                if count > u64::from(SEGMENTS_MAX) {
                    return Err(FrameError::TooManySegments { segments: count });
                }
                self.count = Some(low + 1);
                self.ends.push(high as usize);
                low + 1
            }
            Some(count) => {
                // The last half may be padding.
                for size in [low, high] {
                    if self.ends.len() < count as usize {
                        let end = self.ends.last().copied().unwrap_or(0);
                        self.ends.push(end + size as usize);
                    }
                }
                count
            }
        };
        // At most 511 times 32 bits of words: no overflow.
        let bytes = self.ends.last().copied().unwrap_or(0) * WORD;
        if bytes > limit {
            return Err(FrameError::TooLarge {
                bytes: bytes as u64,
                limit: limit as u64,
            });
        }
        if self.ends.len() == count as usize {
            self.total = Some(bytes);
        }
        Ok(taken)
    }
}

fn to_word(bytes: &[u8]) -> Word {
    match *bytes {
        [a, b, c, d, e, f, g, h] => capnp::word(a, b, c, d, e, f, g, h),
        _ => capnp::word(0, 0, 0, 0, 0, 0, 0, 0),
    }
}

/// Kind of the message that has this first segment.
pub fn kind(first_segment: &[u8]) -> Kind {
    let message = Segment(first_segment);
    let Some((tag, body)) = message.root() else {
        return Kind::Question(None);
    };
    let data = message.first_data(body);
    let id = data.map(|[low, _]| low);
    match tag {
        2 | 8 => Kind::Question(id),
        // `noFinishNeeded` is bit 33.
        3 => Kind::Return {
            id,
            last: data.is_some_and(|[_, high]| high & 2 != 0),
        },
        4 => Kind::Finish(id),
        _ => Kind::Other,
    }
}

fn halves(word: &[u8; WORD]) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = *word;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// A first segment.
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

    /// The first word of the body; it begins with `questionId` or `answerId`. A struct without data has zeros.
    fn first_data(&self, body: Option<Struct>) -> Option<[u32; 2]> {
        let body = body?;
        if body.data_words == 0 {
            return Some([0, 0]);
        }
        self.word(body.at)
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

    type Assembled = Vec<Vec<Vec<u8>>>;

    fn assemble(data: &[u8], piece: usize, limit: usize) -> Result<(Assembled, bool), FrameError> {
        let limits = Limits {
            maximum: limit,
            present: limit,
        };
        let mut assembler = Assembler::default();
        let mut messages = Vec::new();
        for mut part in data.chunks(piece) {
            while !part.is_empty() {
                let (taken, message) = assembler.feed(part, limits)?;
                assert!(taken > 0 || message.is_some());
                part = &part[taken..];
                messages.extend(message);
            }
        }
        let messages = messages
            .iter()
            .map(|message| {
                let segments: Vec<_> = (0..message.len())
                    .map(|index| message.get_segment(index as u32).unwrap().to_vec())
                    .collect();
                assert!(message.get_segment(message.len() as u32).is_none());
                let parts: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
                let mut written = Vec::new();
                write_table(&parts, &mut written);
                assert_eq!(written.len(), table_bytes(parts.len()));
                assert_eq!(written.len() + parts.concat().len(), message.bytes());
                segments
            })
            .collect();
        Ok((messages, assembler.at_boundary()))
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut() {
        let mut data = Vec::new();
        let mut expected = Vec::new();
        let mut next = 0_u8;
        for sizes in [&[3_u32][..], &[1, 2], &[1, 0, 5], &[2, 2, 2, 2], &[0]] {
            data.extend(table(sizes));
            let mut message = Vec::new();
            for size in sizes {
                let segment: Vec<u8> = (0..8 * size)
                    .map(|_| {
                        next = next.wrapping_add(1);
                        next
                    })
                    .collect();
                data.extend(&segment);
                message.push(segment);
            }
            expected.push(message);
        }
        for piece in 1..data.len() + 1 {
            assert_eq!(assemble(&data, piece, 1 << 20).unwrap(), (expected.clone(), true));
        }
        assert!(!assemble(&data[..data.len() - 3], 7, 1 << 20).unwrap().1);
    }

    #[test]
    fn promises_beyond_the_limit_are_refused_in_the_table() {
        let too_large = FrameError::TooLarge {
            bytes: 136,
            limit: 128,
        };
        assert_eq!(assemble(&table(&[17]), 1, 128), Err(too_large));
        assert!(assemble(&table(&[16]), 1, 128).is_ok());
        assert_eq!(assemble(&table(&[8, 4, 5]), 4, 128), Err(too_large));
        assert!(assemble(&table(&[u32::MAX; 511]), 64, usize::MAX).is_ok());
        assert_eq!(
            assemble(&[0xff; 8], 8, usize::MAX),
            Err(FrameError::TooManySegments { segments: 1 << 32 })
        );
    }

    #[test]
    fn memory_follows_what_has_arrived() {
        let mut assembler = Assembler::default();
        let mut limits = Limits {
            maximum: usize::MAX,
            present: 1000,
        };
        let data = [table(&[1 << 20]), vec![0; 100]].concat();
        let (taken, message) = assembler.feed(&data, limits).unwrap();
        assert!(taken == 8 && message.is_none());
        assert_eq!(assembler.announced(), 8 << 20);
        assert!(matches!(assembler.feed(&data[8..], limits), Ok((0, None))));
        limits.present = usize::MAX;
        assert!(matches!(assembler.feed(&[], limits), Ok((0, None))));
        assert_eq!(assembler.held(), 0);
        let mut arrived = 0;
        while assembler.missing() > 0 {
            let count = assembler.room().len().min(1000);
            arrived += count;
            let message = assembler.advance(count);
            assert_eq!(message.is_some(), arrived == 8 << 20);
            assert!(assembler.held() <= (2 * arrived).max(FIRST_WORDS * WORD));
        }
        assert!(assembler.at_boundary());
    }

    #[test]
    fn kinds_and_ids_are_seen() {
        // Root pointer; tag; pointer to a body with one data word; id 77, and for a return bit 33.
        for (tag, word, expected) in [
            (2, 77, Kind::Question(Some(77))),
            (4, 77, Kind::Finish(Some(77))),
            (
                3,
                77,
                Kind::Return {
                    id: Some(77),
                    last: false,
                },
            ),
            (
                3,
                77 | 1 << 33,
                Kind::Return {
                    id: Some(77),
                    last: true,
                },
            ),
            (1, 77, Kind::Other),
        ] {
            let words: [u64; 4] = [0x0001_0001_0000_0000, tag, 0x0000_0001_0000_0000, word];
            let segment: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert_eq!(kind(&segment), expected);
            for length in 0..segment.len() {
                kind(&segment[..length]);
            }
        }
    }
}
