//! Finding the leader, deciding only (pure). The same form as [`crate::election`].
//!
//! The leader is the member with the smallest number, as its znode's text tells. A detector that has had no contact with ZooKeeper for
//! the session's time-out knows no leader: whoever it knew may have been followed by another one.
//!
//! Nothing hangs: each question is asked again when its answer fails to come, and members are listed now and then without any watch's call
//! (in Mesos a read that failed was put aside until some other event came: MESOS-9426).

use std::collections::VecDeque;

use model::{Leader, MasterInfo, Millis, Term};

use crate::election::Attempt;
use crate::member::Member;
use crate::pause::Pause;

/// Lists without cause, in a session's time-out: one in six, a detector is one of tens of thousands.
const LIST_EVERY: u64 = 6;
const RETRIES: u64 = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Tick,
    Opened {
        attempt: Attempt,
        timeout: Millis,
    },
    /// The session is over, or was never had.
    Failed {
        attempt: Attempt,
    },
    /// A server is connected again.
    Connected {
        attempt: Attempt,
    },
    /// No server is connected; none has been heard for so long.
    Disconnected {
        attempt: Attempt,
        silent_for: Millis,
    },
    Listed {
        attempt: Attempt,
        members: Vec<Member>,
    },
    /// No answer, or an error that may pass.
    ListFailed {
        attempt: Attempt,
    },
    Changed {
        attempt: Attempt,
    },
    Read {
        attempt: Attempt,
        member: Member,
        found: Found,
    },
}

/// What is in a member's znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Master(MasterInfo, Term),
    /// Nothing that we understand: there is a leader, but nobody can say who.
    Unreadable,
    /// It went between list and read.
    Gone,
    /// No answer.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Open(Attempt),
    List(Attempt),
    Read(Attempt, Member),
    Close(Attempt),
    Tell(Option<Leader>),
}

#[derive(Debug, Clone)]
enum Stage {
    Waiting { until: Millis },
    Opening { gives_up: Millis },
    Open(Session),
}

#[derive(Debug, Clone)]
struct Session {
    /// Since when no server has been heard.
    silent_since: Option<Millis>,
    asking: Asking,
    /// Changed while something is under way.
    stale: bool,
    /// The znode that the leader that was told comes from.
    member: Option<Member>,
}

#[derive(Debug, Clone)]
enum Asking {
    List { gives_up: Millis },
    Read { member: Member, gives_up: Millis },
    Next { at: Millis },
}

/// A detector. See the module's head.
pub struct Detection {
    wanted: Millis,
    timeout: Millis,
    now: Millis,
    attempt: Attempt,
    stage: Stage,
    pause: Pause,
    told: Option<Leader>,
    wishes: VecDeque<Wish>,
}

impl Detection {
    pub fn new(now: Millis, timeout: Millis, seed: u64) -> Self {
        Self {
            wanted: timeout,
            timeout,
            now,
            attempt: Attempt(0),
            stage: Stage::Waiting { until: now },
            pause: Pause::new(seed),
            told: None,
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

    pub fn leader(&self) -> Option<&Leader> {
        self.told.as_ref()
    }

    pub fn deadline(&self) -> Option<Millis> {
        match &self.stage {
            Stage::Waiting { until } => Some(*until),
            Stage::Opening { gives_up } => Some(*gives_up),
            Stage::Open(session) => {
                let asking = match &session.asking {
                    Asking::List { gives_up } | Asking::Read { gives_up, .. } => *gives_up,
                    Asking::Next { at } => *at,
                };
                Some(
                    session
                        .silent_since
                        .map_or(asking, |since| asking.min(self.forgotten(since))),
                )
            }
        }
    }

    fn forgotten(&self, since: Millis) -> Millis {
        Millis(since.0 + self.timeout.0)
    }

    fn after(&self, part: u64) -> Millis {
        Millis(self.now.0 + (self.timeout.0 / part).max(1))
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Opened { attempt, timeout } if attempt == self.attempt => {
                if matches!(self.stage, Stage::Opening { .. }) {
                    self.timeout = timeout;
                    let asking = Asking::Next { at: self.now };
                    self.stage = Stage::Open(Session {
                        silent_since: None,
                        asking,
                        stale: false,
                        member: None,
                    });
                }
            }
            Input::Failed { attempt } if attempt == self.attempt => self.give_up(),
            Input::Connected { attempt } if attempt == self.attempt => {
                if let Stage::Open(session) = &mut self.stage {
                    session.silent_since = None;
                }
                self.changed();
            }
            Input::Disconnected { attempt, silent_for } if attempt == self.attempt => {
                let since = Millis(self.now.0.saturating_sub(silent_for.0));
                if let Stage::Open(session) = &mut self.stage {
                    session.silent_since.get_or_insert(since);
                }
            }
            Input::Listed { attempt, members } if attempt == self.attempt => self.listed(members),
            Input::ListFailed { attempt } if attempt == self.attempt => self.ask_at(self.after(RETRIES)),
            Input::Changed { attempt } if attempt == self.attempt => self.changed(),
            Input::Read {
                attempt,
                member,
                found,
            } if attempt == self.attempt => self.read(&member, found),
            // Of a session that is over.
            _ => {}
        }
    }

    fn changed(&mut self) {
        let now = self.now;
        if let Stage::Open(session) = &mut self.stage {
            match session.asking {
                Asking::Next { .. } => session.asking = Asking::Next { at: now },
                _ => session.stale = true,
            }
        }
    }

    fn ask_at(&mut self, at: Millis) {
        let now = self.now;
        if let Stage::Open(session) = &mut self.stage {
            let stale = std::mem::take(&mut session.stale);
            session.asking = Asking::Next {
                at: if stale { now } else { at },
            };
        }
    }

    fn listed(&mut self, members: Vec<Member>) {
        let gives_up = self.after(1);
        let Stage::Open(session) = &mut self.stage else {
            return;
        };
        self.pause.reset();
        let first = members.into_iter().min();
        match first {
            Some(first) if session.member.as_ref() != Some(&first) => {
                session.asking = Asking::Read {
                    member: first.clone(),
                    gives_up,
                };
                self.wishes.push_back(Wish::Read(self.attempt, first));
            }
            Some(_) => self.ask_again_some_day(),
            None => {
                session.member = None;
                self.tell(None);
                self.ask_again_some_day();
            }
        }
    }

    fn ask_again_some_day(&mut self) {
        self.ask_at(Millis(self.now.0 + LIST_EVERY * self.timeout.0));
    }

    fn read(&mut self, member: &Member, found: Found) {
        let now = self.now;
        let Stage::Open(session) = &mut self.stage else {
            return;
        };
        if !matches!(&session.asking, Asking::Read { member: asked, .. } if asked == member) {
            return;
        }
        match found {
            Found::Master(info, term) => {
                session.member = Some(member.clone());
                self.tell(Some(Leader {
                    info,
                    term: Some(term),
                }));
                self.ask_again_some_day();
            }
            Found::Unreadable => {
                session.member = Some(member.clone());
                self.tell(None);
                self.ask_again_some_day();
            }
            Found::Gone => self.ask_at(now),
            Found::Failed => self.ask_at(self.after(RETRIES)),
        }
    }

    fn check(&mut self) {
        let now = self.now;
        match &self.stage {
            Stage::Waiting { until } if *until <= now => {
                self.attempt = Attempt(self.attempt.0 + 1);
                self.stage = Stage::Opening {
                    gives_up: Millis(now.0 + 2 * self.wanted.0),
                };
                self.wishes.push_back(Wish::Open(self.attempt));
            }
            Stage::Opening { gives_up } if *gives_up <= now => self.give_up(),
            Stage::Open(session) => {
                if session
                    .silent_since
                    .is_some_and(|since| self.forgotten(since) <= now)
                {
                    return self.give_up();
                }
                match &session.asking {
                    // A server that does not answer for so long has not been heard for so long.
                    Asking::List { gives_up } | Asking::Read { gives_up, .. } if *gives_up <= now => {
                        self.give_up()
                    }
                    Asking::Next { at } if *at <= now => self.list(),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn list(&mut self) {
        let gives_up = self.after(1);
        if let Stage::Open(session) = &mut self.stage {
            session.asking = Asking::List { gives_up };
            session.stale = false;
            self.wishes.push_back(Wish::List(self.attempt));
        }
    }

    fn tell(&mut self, leader: Option<Leader>) {
        if self.told != leader {
            self.told.clone_from(&leader);
            self.wishes.push_back(Wish::Tell(leader));
        }
    }

    fn give_up(&mut self) {
        if matches!(self.stage, Stage::Waiting { .. }) {
            return;
        }
        self.stage = Stage::Waiting {
            until: Millis(self.now.0 + self.pause.take().0),
        };
        self.tell(None);
        self.wishes.push_back(Wish::Close(self.attempt));
    }
}
