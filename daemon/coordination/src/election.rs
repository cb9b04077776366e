//! Contending for leadership, deciding only (pure).
//!
//! ```text
//!            Open           Join            List: somebody is before us
//!  Waiting ───────> Opening ────> Joining ───────────────────────────> StandBy
//!     ^  after a pause                 \                                  │ List: we are first, and the
//!     │                                 └──────────────> Leading <────────┘ session was confirmed lately
//!     │   Close: session over, own znode gone, fence reached, outcome unknown │
//!     └──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Contract: facts and time go in by [`Election::handle`], wishes come out by [`Election::poll`]; [`Election::deadline`] is when a
//! tick is due. Facts about an attempt that is over are ignored.
//!
//! **The fence.** The servers give a session up when they have not heard of it for the negotiated time-out, counted from
//! *their* receipt of something that we sent. So a session lives at least until the sending of the last request that was answered, plus the
//! time-out. A leader leads until two thirds of that: the last third is for servers that tell each other of their clients' life
//! with a delay (half a tick; a time-out is two ticks or more), for clocks that run apart, and for what is under way. The request is
//! one that the ensemble's leader answers: a follower that is cut off from it goes on answering reads for a while, for a session that has expired.
//!
//! A leader that stepped down never resumes: it gives the session up, with it the znode, and stands at the end of the line with a new one,
//! hence with a new, greater term.

use std::collections::VecDeque;

use model::{Millis, Term};

use crate::member::Member;
use crate::pause::Pause;

/// Of so many parts of the session's time-out a leader uses [`FENCE_PARTS`].
const PARTS: u64 = 3;
const FENCE_PARTS: u64 = 2;
/// Beats in a session's time-out: two may fail before the fence is reached.
const BEATS: u64 = 6;

/// One session, and all that is asked in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Attempt(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing but time has passed.
    Tick,
    /// There is a session, asked for at `asked_at`; the servers granted `timeout`.
    Opened {
        attempt: Attempt,
        timeout: Millis,
        asked_at: Millis,
    },
    /// The own znode is there.
    Joined {
        attempt: Attempt,
        member: Member,
        term: Term,
        asked_at: Millis,
    },
    /// All members at some moment after the own znode was made.
    Listed { attempt: Attempt, members: Vec<Member> },
    /// No answer, or an error that may pass.
    ListFailed { attempt: Attempt },
    /// Members came or went since the last list was asked for.
    Changed { attempt: Attempt },
    /// The ensemble's leader answered what was sent at `asked_at`, or later.
    Heard { attempt: Attempt, asked_at: Millis },
    /// No answer to a beat.
    Missed { attempt: Attempt },
    /// The session is over, was never had, or nobody knows whether the znode was made.
    Failed { attempt: Attempt },
    /// Leave, for good.
    Withdraw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Open(Attempt),
    /// Make the own znode.
    Join(Attempt),
    /// List members, and say when they change.
    List(Attempt),
    /// Ask the ensemble's leader for any answer.
    Beat(Attempt),
    /// Give the session up, with all that it made.
    Close(Attempt),
    Tell(Standing),
}

/// Where a contender stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not in line, as far as is known.
    Contending,
    /// In line, somebody else is before us.
    StandBy,
    Elected(Term),
}

#[derive(Debug, Clone)]
enum Stage {
    Waiting { until: Millis },
    Opening { gives_up: Millis },
    Joining { gives_up: Millis },
    InLine(Line),
    Withdrawn,
}

#[derive(Debug, Clone)]
struct Line {
    member: Member,
    term: Term,
    /// None until the members have been listed.
    first: Option<bool>,
    leading: bool,
    list: Listing,
    beat: Beat,
}

#[derive(Debug, Clone, Copy)]
enum Listing {
    /// Members changed while it was on its way: it may be old.
    UnderWay { again: bool, since: Millis },
    /// Watches are trusted, but not for ever.
    Next { at: Millis },
}

#[derive(Debug, Clone, Copy)]
enum Beat {
    UnderWay { since: Millis },
    Next { at: Millis },
}

/// A contender. See the module's head.
pub struct Election {
    /// What is asked of the servers.
    wanted: Millis,
    /// What they granted last.
    timeout: Millis,
    now: Millis,
    attempt: Attempt,
    stage: Stage,
    /// When the last request was sent that has been answered.
    heard: Millis,
    pause: Pause,
    told: Standing,
    wishes: VecDeque<Wish>,
}

impl Election {
    pub fn new(now: Millis, timeout: Millis, seed: u64) -> Self {
        Self {
            wanted: timeout,
            timeout,
            now,
            attempt: Attempt(0),
            stage: Stage::Waiting { until: now },
            heard: now,
            pause: Pause::new(seed),
            told: Standing::Contending,
            wishes: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, now: Millis, input: Input) {
        self.now = self.now.max(now);
        self.take(input);
        self.check();
    }

    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    pub fn standing(&self) -> Standing {
        self.told
    }

    /// Until when this one leads, whatever happens; nothing said after it may take effect.
    pub fn tenure(&self) -> Option<(Term, Millis)> {
        match &self.stage {
            Stage::InLine(line) if line.leading => Some((line.term, self.fence())),
            _ => None,
        }
    }

    /// When to hand in a [`Input::Tick`], if nothing else comes.
    pub fn deadline(&self) -> Option<Millis> {
        match &self.stage {
            Stage::Waiting { until } => Some(*until),
            Stage::Opening { gives_up } | Stage::Joining { gives_up } => Some(*gives_up),
            Stage::Withdrawn => None,
            Stage::InLine(line) => {
                let list = match line.list {
                    Listing::UnderWay { since, .. } => self.late(since),
                    Listing::Next { at } => at,
                };
                let beat = match line.beat {
                    Beat::UnderWay { since } => self.late(since),
                    Beat::Next { at } => at,
                };
                let own = if line.leading {
                    self.fence()
                } else {
                    self.hopeless()
                };
                Some(list.min(beat).min(own))
            }
        }
    }

    fn fence(&self) -> Millis {
        Millis(self.heard.0 + self.timeout.0 * FENCE_PARTS / PARTS)
    }

    /// The session is over by now, whether anybody said so or not.
    fn hopeless(&self) -> Millis {
        Millis(self.heard.0 + 2 * self.timeout.0)
    }

    /// Who promised to answer has not.
    fn late(&self, since: Millis) -> Millis {
        Millis(since.0 + self.timeout.0)
    }

    fn after(&self, parts: u64) -> Millis {
        Millis(self.now.0 + (self.timeout.0 / parts).max(1))
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Withdraw => self.withdraw(),
            Input::Opened {
                attempt,
                timeout,
                asked_at,
            } if self.is_opening(attempt) => {
                self.timeout = timeout;
                self.heard = asked_at;
                self.stage = Stage::Joining {
                    gives_up: self.after(1),
                };
                self.wishes.push_back(Wish::Join(attempt));
            }
            Input::Joined {
                attempt,
                member,
                term,
                asked_at,
            } if self.is_joining(attempt) => {
                self.heard = self.heard.max(asked_at);
                self.stage = Stage::InLine(Line {
                    member,
                    term,
                    first: None,
                    leading: false,
                    list: Listing::UnderWay {
                        again: false,
                        since: self.now,
                    },
                    beat: Beat::Next {
                        at: self.after(BEATS),
                    },
                });
                self.wishes.push_back(Wish::List(attempt));
            }
            Input::Failed { attempt } if attempt == self.attempt => self.give_up(),
            Input::Heard { attempt, asked_at } if attempt == self.attempt => {
                self.heard = self.heard.max(asked_at);
                self.pause.reset();
                self.next_beat(BEATS);
            }
            Input::Missed { attempt } if attempt == self.attempt => self.next_beat(4 * BEATS),
            Input::Listed { attempt, members } if attempt == self.attempt => self.listed(&members),
            Input::ListFailed { attempt } if attempt == self.attempt => {
                let at = self.after(4 * BEATS);
                if let Stage::InLine(line) = &mut self.stage {
                    line.list = Listing::Next { at };
                }
            }
            Input::Changed { attempt } if attempt == self.attempt => self.changed(),
            // Of an attempt that is over, or not in its place.
            _ => {}
        }
    }

    fn is_opening(&self, attempt: Attempt) -> bool {
        attempt == self.attempt && matches!(self.stage, Stage::Opening { .. })
    }

    fn is_joining(&self, attempt: Attempt) -> bool {
        attempt == self.attempt && matches!(self.stage, Stage::Joining { .. })
    }

    fn next_beat(&mut self, parts: u64) {
        let at = self.after(parts);
        if let Stage::InLine(line) = &mut self.stage {
            line.beat = Beat::Next { at };
        }
    }

    fn changed(&mut self) {
        let now = self.now;
        if let Stage::InLine(line) = &mut self.stage {
            match &mut line.list {
                Listing::UnderWay { again, .. } => *again = true,
                Listing::Next { at } => *at = now,
            }
        }
    }

    fn listed(&mut self, members: &[Member]) {
        let (now, relist) = (self.now, self.after(1));
        let Stage::InLine(line) = &mut self.stage else {
            return;
        };
        let again = matches!(line.list, Listing::UnderWay { again: true, .. });
        line.list = Listing::Next {
            at: if again { now } else { relist },
        };
        if !members.contains(&line.member) {
            // Removed by hand, or the session is over and its end not yet told.
            return self.give_up();
        }
        line.first = Some(members.iter().min() == Some(&line.member));
        if line.leading && line.first == Some(false) {
            // Nobody can have come before us. Whatever it is, it is not ours to lead.
            self.give_up();
        }
    }

    /// What follows from time, and from what is known by now.
    fn check(&mut self) {
        let (now, fence, hopeless) = (self.now, self.fence(), self.hopeless());
        let attempt = self.attempt;
        match &mut self.stage {
            Stage::Waiting { until } if *until <= now => {
                self.attempt = Attempt(attempt.0 + 1);
                // The door itself gives up after the time-out that was asked for.
                self.stage = Stage::Opening {
                    gives_up: Millis(now.0 + 2 * self.wanted.0),
                };
                self.wishes.push_back(Wish::Open(self.attempt));
            }
            Stage::Opening { gives_up } | Stage::Joining { gives_up } if *gives_up <= now => self.give_up(),
            Stage::InLine(line) => {
                if (line.leading && now >= fence) || now >= hopeless {
                    return self.give_up();
                }
                line.leading |= line.first == Some(true) && now < fence;
                if line.first.is_none() {
                    return self.ask();
                }
                let standing = if line.leading {
                    Standing::Elected(line.term)
                } else {
                    Standing::StandBy
                };
                self.tell(standing);
                self.ask();
            }
            _ => {}
        }
    }

    /// Beats and lists that are due.
    fn ask(&mut self) {
        let (now, attempt, timeout) = (self.now, self.attempt, self.timeout);
        let Stage::InLine(line) = &mut self.stage else {
            return;
        };
        let due = match line.beat {
            Beat::UnderWay { since } => since.0 + timeout.0 <= now.0,
            Beat::Next { at } => at <= now,
        };
        if due {
            line.beat = Beat::UnderWay { since: now };
            self.wishes.push_back(Wish::Beat(attempt));
        }
        let due = match line.list {
            Listing::UnderWay { since, .. } => since.0 + timeout.0 <= now.0,
            Listing::Next { at } => at <= now,
        };
        if due {
            line.list = Listing::UnderWay {
                again: false,
                since: now,
            };
            self.wishes.push_back(Wish::List(attempt));
        }
    }

    fn tell(&mut self, standing: Standing) {
        if self.told != standing {
            self.told = standing;
            self.wishes.push_back(Wish::Tell(standing));
        }
    }

    /// Steps down first, then lets the session go.
    fn give_up(&mut self) {
        let open = matches!(
            self.stage,
            Stage::Opening { .. } | Stage::Joining { .. } | Stage::InLine(_)
        );
        if !open {
            return;
        }
        self.stage = Stage::Waiting {
            until: Millis(self.now.0 + self.pause.take().0),
        };
        self.tell(Standing::Contending);
        self.wishes.push_back(Wish::Close(self.attempt));
    }

    fn withdraw(&mut self) {
        self.give_up();
        self.stage = Stage::Withdrawn;
    }
}
