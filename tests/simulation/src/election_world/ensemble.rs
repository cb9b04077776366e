//! ZooKeeper as its clients see it: sessions that expire, sequential znodes, lists that may be old.

use std::collections::BTreeMap;

use coordination::election::Attempt;
use coordination::member::Member;
use model::Term;

use crate::random::Random;

/// Expiry is rounded up to these.
const TICK: u64 = 2_000;
/// What the leading server knows of a client is so old: followers tell it with its pings.
const LAG_MAX: u64 = TICK / 2;
/// A follower is at most so many changes behind.
const BEHIND_MAX: u64 = 3;

#[derive(Debug)]
struct Session {
    attempt: Attempt,
    expires: u64,
    watching: bool,
    /// The newest change that this client has seen: no server shows it an older state.
    seen: usize,
}

/// What a client is told unasked.
pub struct Call {
    pub attempt: Attempt,
    pub ended: bool,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub member: Member,
    pub term: Term,
    pub owner: usize,
    session: u64,
}

pub struct Ensemble {
    timeout: u64,
    sessions: BTreeMap<u64, Session>,
    /// Each state that there was; the last one is the present.
    history: Vec<Vec<Node>>,
    sequence: u64,
    transactions: u64,
    next_session: u64,
    pub quorum: bool,
    calls: Vec<(u64, Call)>,
}

impl Ensemble {
    pub fn new(timeout: u64) -> Self {
        Self {
            timeout,
            sessions: BTreeMap::new(),
            history: vec![Vec::new()],
            sequence: 0,
            transactions: 100,
            next_session: 1,
            quorum: true,
            calls: Vec::new(),
        }
    }

    pub fn open(&mut self, now: u64, attempt: Attempt) -> u64 {
        let number = self.next_session;
        self.next_session += 1;
        self.transactions += 1;
        let session = Session {
            attempt,
            expires: now + self.timeout,
            watching: false,
            seen: self.history.len() - 1,
        };
        self.sessions.insert(number, session);
        number
    }

    pub fn is_open(&self, session: u64) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Heard from it, by way of a server that tells the leading one somewhat later, or not at all if it dies before.
    pub fn touch(&mut self, now: u64, session: u64, random: &mut Random) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.expires = session
                .expires
                .max((now + self.timeout).saturating_sub(random.below(LAG_MAX)));
        }
    }

    pub fn join(&mut self, session: u64, owner: usize) -> Node {
        self.transactions += 1;
        let name = format!("json.info_{:010}", self.sequence);
        self.sequence += 1;
        let member = Member::parse(&name).expect("a member");
        let node = Node {
            member,
            term: Term(self.transactions),
            owner,
            session,
        };
        let mut state = self.present().to_vec();
        state.push(node.clone());
        self.change(state);
        let seen = self.history.len() - 1;
        if let Some(session) = self.sessions.get_mut(&session) {
            session.seen = seen;
        }
        node
    }

    pub fn present(&self) -> &[Node] {
        self.history.last().map_or(&[], Vec::as_slice)
    }

    /// The members as some server has them; a call comes when they are others than that.
    pub fn list(&mut self, session: u64, random: &mut Random) -> Vec<Member> {
        let newest = self.history.len() - 1;
        let behind = random.below(BEHIND_MAX + 1) as usize;
        let Some(known) = self.sessions.get_mut(&session) else {
            return Vec::new();
        };
        let shown = newest.saturating_sub(behind).max(known.seen);
        known.seen = shown;
        known.watching = shown == newest;
        if shown != newest {
            let attempt = known.attempt;
            self.calls.push((
                session,
                Call {
                    attempt,
                    ended: false,
                },
            ));
        }
        self.history[shown]
            .iter()
            .map(|node| node.member.clone())
            .collect()
    }

    pub fn read(&self, member: &Member) -> Option<&Node> {
        self.present().iter().find(|node| node.member == *member)
    }

    pub fn close(&mut self, session: u64) {
        if self.sessions.remove(&session).is_some() {
            self.transactions += 1;
            let rest: Vec<Node> = self
                .present()
                .iter()
                .filter(|node| node.session != session)
                .cloned()
                .collect();
            if rest.len() != self.present().len() {
                self.change(rest);
            }
        }
    }

    /// Somebody removes the first one by hand.
    pub fn remove_first(&mut self) -> Option<Term> {
        let mut state = self.present().to_vec();
        let first = state
            .iter()
            .enumerate()
            .min_by(|(_, a), (_, b)| a.member.cmp(&b.member));
        let removed = state.remove(first.map(|(place, _)| place)?);
        self.transactions += 1;
        self.change(state);
        Some(removed.term)
    }

    fn change(&mut self, state: Vec<Node>) {
        self.history.push(state);
        for (number, session) in &mut self.sessions {
            if std::mem::take(&mut session.watching) {
                self.calls.push((
                    *number,
                    Call {
                        attempt: session.attempt,
                        ended: false,
                    },
                ));
            }
        }
    }

    /// How many sessions have expired. Without a quorum none does.
    pub fn expire(&mut self, now: u64) -> u64 {
        if !self.quorum {
            return 0;
        }
        let rounded = |at: u64| at.div_ceil(TICK) * TICK;
        let over: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, s)| rounded(s.expires) <= now)
            .map(|(n, _)| *n)
            .collect();
        for number in &over {
            if let Some(session) = self.sessions.get(number) {
                let attempt = session.attempt;
                self.calls.push((*number, Call { attempt, ended: true }));
            }
            self.close(*number);
        }
        over.len() as u64
    }

    /// A new leading server gives each session its whole time again.
    pub fn recover(&mut self, now: u64) {
        self.quorum = true;
        for session in self.sessions.values_mut() {
            session.expires = session.expires.max(now + self.timeout);
        }
    }

    pub fn take_calls(&mut self) -> Vec<(u64, Call)> {
        std::mem::take(&mut self.calls)
    }
}
