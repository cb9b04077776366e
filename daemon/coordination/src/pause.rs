//! How long to wait before the next try (pure).

use model::Millis;

const FIRST: Millis = Millis(100);
const LONGEST: Millis = Millis::secs(5);

/// Doubles from try to try, and each pause is cut by up to half, by chance, so that many who lost the same server at the same moment
/// don't come back at the same moment.
#[derive(Debug, Clone)]
pub struct Pause {
    next: Millis,
    chance: u64,
}

impl Pause {
    /// `seed`: another one for each process.
    pub fn new(seed: u64) -> Self {
        Self {
            next: FIRST,
            chance: seed | 1,
        }
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }

    pub fn take(&mut self) -> Millis {
        let whole = self.next.0;
        self.next = Millis((whole * 2).min(LONGEST.0));
        // xorshift64 (Marsaglia 2003).
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        Millis(whole - self.chance % (whole / 2 + 1))
    }
}
