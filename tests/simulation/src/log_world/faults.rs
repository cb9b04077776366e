//! What goes wrong in a world, and how often.

use crate::random::Random;

/// Chances are "one in so many" per message, flush or action; 0 is never.
#[derive(Debug, Clone)]
pub struct Faults {
    pub loss: u64,
    pub duplicate: u64,
    pub delay_min: u64,
    pub delay_max: u64,
    /// A message takes this much longer, and so is overtaken by many.
    pub straggle: u64,
    pub straggle_max: u64,
    pub flush_max: u64,
    pub persist_fails: u64,
    // Per action of the world:
    pub crash: u64,
    pub lose_disk: u64,
    pub damage_disk: u64,
    pub partition: u64,
    pub clock_jump: u64,
    pub elect: u64,
    pub change: u64,
    pub truncate: u64,
    /// This world is about changes of members.
    pub members: bool,
}

impl Faults {
    /// Worlds differ in what plagues them: many faults at once hide what one of them alone would show.
    pub fn draw(random: &mut Random) -> Self {
        let members = random.one_in(4);
        let mut rate = |rates: &[u64]| rates[random.below(rates.len() as u64) as usize];
        let drawn = Self {
            loss: rate(&[0, 0, 50, 10, 4]),
            duplicate: rate(&[0, 50, 8]),
            delay_min: rate(&[0, 1, 5]),
            delay_max: rate(&[2, 10, 60, 300]),
            straggle: rate(&[0, 0, 60, 15]),
            straggle_max: rate(&[500, 5_000, 20_000]),
            flush_max: rate(&[0, 3, 30, 300]),
            persist_fails: rate(&[0, 0, 0, 300]),
            crash: rate(&[0, 12, 6, 3]),
            lose_disk: rate(&[0, 0, 12, 5]),
            damage_disk: rate(&[0, 0, 20]),
            partition: rate(&[0, 15, 5]),
            clock_jump: rate(&[0, 0, 10]),
            elect: rate(&[20, 6, 3]),
            change: rate(&[0, 0, 10, 5]),
            truncate: rate(&[0, 20, 8]),
            members: false,
        };
        if !members && drawn.lose_disk > 0 && random.one_in(2) {
            // What a lost disk once said arrives when there is another one.
            return Self {
                lose_disk: 3,
                straggle: 10,
                straggle_max: 5_000,
                ..drawn
            };
        }
        if !members {
            return drawn;
        }
        let mut rate = |rates: &[u64]| rates[random.below(rates.len() as u64) as usize];
        // Members change back and forth, writers compete, and groups of replicas do not hear each other.
        Self {
            loss: rate(&[0, 0, 50]),
            delay_max: rate(&[5, 10, 60]),
            straggle: rate(&[0, 60]),
            flush_max: rate(&[0, 3]),
            crash: rate(&[0, 12]),
            lose_disk: rate(&[0, 30]),
            partition: rate(&[3, 5]),
            clock_jump: 0,
            elect: rate(&[2, 4]),
            change: rate(&[2, 3]),
            members: true,
            ..drawn
        }
    }

    pub fn none() -> Self {
        Self {
            loss: 0,
            duplicate: 0,
            delay_min: 1,
            delay_max: 5,
            straggle: 0,
            straggle_max: 0,
            flush_max: 3,
            persist_fails: 0,
            crash: 0,
            lose_disk: 0,
            damage_disk: 0,
            partition: 0,
            clock_jump: 0,
            elect: 0,
            change: 0,
            truncate: 0,
            members: false,
        }
    }
}
