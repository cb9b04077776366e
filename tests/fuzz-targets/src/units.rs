//! Sizes, times, CPUs, rates and ceilings as people write them.
//!
//! Rules: a value prints as something that is a value again, and prints the same once more; where printing is exact the
//! value is the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use model::{BitsPerSecond, Bytes, Cpus, Limit, Millis};

pub fn run(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    stable::<Bytes>(text);
    stable::<Millis>(text);
    stable::<Limit<Bytes>>(text);
    if let Some(cpus) = stable::<Cpus>(text) {
        assert_eq!(cpus.to_string().parse(), Ok(cpus));
        assert!(cpus.milli() > 0);
    }
    if let Ok(rate) = text.parse::<BitsPerSecond>() {
        assert!(rate.0 <= 1_000_000_000_000_000);
    }
    // A number of its own, so that every value is reached and not only what is easily written.
    if let Some(bytes) = data.first_chunk::<8>() {
        let number = u64::from_le_bytes(*bytes);
        stable::<Bytes>(&Bytes(number >> 4).to_string());
        stable::<Millis>(&Millis(number >> 30).to_string());
    }
}

fn stable<T: FromStr<Err: Debug> + Display>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let printed = value.to_string();
    let again: T = printed.parse().expect("what was printed can be read");
    assert_eq!(again.to_string(), printed, "from {text:?}");
    Some(value)
}
