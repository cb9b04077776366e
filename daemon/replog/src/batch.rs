//! A batch: the entries that one flush makes durable, as a stream of bytes that is cut into sectors.
//!
//! ```text
//! head    magic u32 · length of the rest u32 · entries u32 · zero u32
//! entry   kind u8 · flags u8 · zero u16 · length u32 · number u64 · bytes
//! ```

const MAGIC: u32 = 0x6b68_6c62;
const HEAD_BYTES: usize = 16;
const ENTRY_HEAD_BYTES: usize = 16;

const VALUE: u8 = 1;
const MARK: u8 = 2;
const BEGIN: u8 = 3;
const META: u8 = 4;
const CUT: u8 = 5;

/// One thing to remember. A later one of the same place replaces an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// What is known of a position of the log, with flags that the index keeps in memory.
    Value {
        position: u64,
        flags: u8,
        bytes: &'a [u8],
    },
    /// New flags for the values of positions `from..to`, which stay as they are.
    Mark { from: u64, to: u64, flags: u8 },
    /// Positions below are truncated. Never decreases.
    Begin(u64),
    /// Values of this position and behind are void.
    Cut(u64),
    /// The one record that belongs to no position: status, promises, identity.
    Meta(&'a [u8]),
}

impl Entry<'_> {
    /// Bytes of the stream that the entry takes.
    pub fn encoded_bytes(&self) -> usize {
        ENTRY_HEAD_BYTES
            + match self {
                Self::Value { bytes, .. } | Self::Meta(bytes) => bytes.len(),
                Self::Mark { .. } => 8,
                Self::Begin(_) | Self::Cut(_) => 0,
            }
    }
}

/// An entry and where its bytes begin in the stream of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed<'a> {
    pub entry: Entry<'a>,
    pub offset: u32,
}

/// The stream of a batch.
pub fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let length: usize = entries.iter().map(Entry::encoded_bytes).sum();
    let mut out = Vec::with_capacity(HEAD_BYTES + length);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for entry in entries {
        match entry {
            Entry::Value {
                position,
                flags,
                bytes,
            } => put(&mut out, VALUE, *flags, *position, bytes),
            Entry::Mark { from, to, flags } => put(&mut out, MARK, *flags, *from, &to.to_le_bytes()),
            Entry::Begin(position) => put(&mut out, BEGIN, 0, *position, &[]),
            Entry::Cut(position) => put(&mut out, CUT, 0, *position, &[]),
            Entry::Meta(bytes) => put(&mut out, META, 0, 0, bytes),
        }
    }
    out
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, number: u64, bytes: &[u8]) {
    out.extend_from_slice(&[kind, flags, 0, 0]);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Bytes of the whole stream, by its first ones. `None`: not the head of a batch.
pub fn stream_bytes(head: &[u8]) -> Option<usize> {
    let magic = u32_at(head, 0)?;
    let length = u32_at(head, 4)?;
    (magic == MAGIC && u32_at(head, 12)? == 0).then_some(HEAD_BYTES + length as usize)
}

/// The entries of a stream in their order. `None`: these are not the bytes of a batch.
pub fn decode(stream: &[u8]) -> Option<Vec<Placed<'_>>> {
    let total = stream_bytes(stream)?;
    let stream = stream.get(..total)?;
    let count = u32_at(stream, 8)? as usize;
    // Each entry takes its head at least: a count beyond that is a lie, and would only make us allocate.
    let mut entries = Vec::with_capacity(count.min(total / ENTRY_HEAD_BYTES));
    let mut at = HEAD_BYTES;
    for _ in 0..count {
        let head = stream.get(at..at + ENTRY_HEAD_BYTES)?;
        let (kind, flags, length) = (head[0], head[1], u32_at(head, 4)? as usize);
        let number = u64::from_le_bytes(*head.get(8..)?.first_chunk::<8>()?);
        let offset = at + ENTRY_HEAD_BYTES;
        let bytes = stream.get(offset..offset.checked_add(length)?)?;
        let entry = match kind {
            VALUE => Entry::Value {
                position: number,
                flags,
                bytes,
            },
            MARK if length == 8 => Entry::Mark {
                from: number,
                to: u64::from_le_bytes(*bytes.first_chunk::<8>()?),
                flags,
            },
            BEGIN if length == 0 => Entry::Begin(number),
            CUT if length == 0 => Entry::Cut(number),
            META => Entry::Meta(bytes),
            _ => return None,
        };
        entries.push(Placed {
            entry,
            offset: u32::try_from(offset).ok()?,
        });
        at = offset + length;
    }
    (at == total).then_some(entries)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let entries = [
            Entry::Meta(b"voting"),
            Entry::Begin(3),
            Entry::Value {
                position: 4,
                flags: 1,
                bytes: &[7; 1000],
            },
            Entry::Value {
                position: 5,
                flags: 0,
                bytes: b"",
            },
            Entry::Cut(5),
            Entry::Mark {
                from: 3,
                to: 6,
                flags: 2,
            },
        ];
        let stream = encode(&entries);
        let decoded: Vec<_> = decode(&stream)
            .unwrap()
            .into_iter()
            .map(|placed| placed.entry)
            .collect();
        assert_eq!(decoded, entries);
        for length in 0..stream.len() {
            assert_eq!(decode(&stream[..length]), None, "the first {length} bytes");
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_no_batch_and_no_panic(bytes: Vec<u8>, at in 0usize..64, value: u8) {
            let _ = decode(&bytes);
            let mut stream = encode(&[Entry::Meta(b"x"), Entry::Value { position: 1, flags: 0, bytes: b"value" }]);
            let at = at.min(stream.len() - 1);
            stream[at] = value;
            let _ = decode(&stream);
        }
    }
}
