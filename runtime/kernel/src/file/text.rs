//! The text of kernel files: values to be written, numbers and keyed lines that are read, all without a heap
//! allocation.

use std::fmt;

/// Text on the stack, for values that are written on the launch path.
#[derive(Clone, Copy)]
pub struct ShortText {
    bytes: [u8; Self::CAPACITY],
    end: usize,
}

impl ShortText {
    const CAPACITY: usize = 128;

    /// The formatted text; what does not fit is cut, which the kernel then refuses or the read-back shows.
    pub fn new(text: fmt::Arguments<'_>) -> Self {
        let mut short = Self {
            bytes: [0; Self::CAPACITY],
            end: 0,
        };
        let _ = fmt::Write::write_fmt(&mut short, text);
        short
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.end]).unwrap_or_default()
    }
}

impl fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.end + text.len();
        if end > Self::CAPACITY {
            return Err(fmt::Error);
        }
        self.bytes[self.end..end].copy_from_slice(text.as_bytes());
        self.end = end;
        Ok(())
    }
}

/// The decimal number that `text` begins with, spaces aside; `None` when there is none or it is too large.
pub fn number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|byte| *byte != b' ' && *byte != b'\t')?;
    let mut value: u64 = 0;
    let mut seen = false;
    for byte in &text[start..] {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        seen = true;
    }
    seen.then_some(value)
}

/// Calls `each(key, value)` for every line `key value` of a flat keyed file, in one pass.
pub fn for_each_keyed(text: &[u8], mut each: impl FnMut(&[u8], u64)) {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(space) = rest.iter().position(|byte| *byte == b' ') else {
            return;
        };
        let (key, tail) = (&rest[..space], &rest[space + 1..]);
        let mut value: u64 = 0;
        let mut at = 0;
        while let Some(digit) = tail
            .get(at)
            .map(|byte| byte.wrapping_sub(b'0'))
            .filter(|digit| *digit <= 9)
        {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            at += 1;
        }
        match tail.get(at) {
            Some(b'\n') | None if at > 0 => {
                each(key, value);
                rest = tail.get(at + 1..).unwrap_or_default();
            }
            // Not `key number`: skip the line.
            _ => match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => rest = &rest[end + 1..],
                None => return,
            },
        }
    }
}

/// The value of `key` in a flat keyed file.
pub fn keyed(text: &[u8], key: &str) -> Option<u64> {
    let mut found = None;
    for_each_keyed(text, |name, value| {
        if name == key.as_bytes() {
            found = Some(value);
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_up_to_the_first_other_byte() {
        assert_eq!(number(b"42\n"), Some(42));
        assert_eq!(number(b"  7 8"), Some(7));
        assert_eq!(number(b"18446744073709551615\n"), Some(u64::MAX));
        for bad in [&b""[..], b"max\n", b"-1\n", b"18446744073709551616\n"] {
            assert_eq!(number(bad), None);
        }
    }

    #[test]
    fn keyed_lines_survive_malformed_neighbours() {
        let text = b"a 1\nweird line here\nempty \nneg -4\nb 22\nc 3";
        assert_eq!(keyed(text, "a"), Some(1));
        assert_eq!(keyed(text, "b"), Some(22));
        assert_eq!(keyed(text, "c"), Some(3));
        for absent in ["weird", "empty", "neg", "d"] {
            assert_eq!(keyed(text, absent), None, "{absent}");
        }
    }
}
