//! One replica with all its machines behind one `handle`, `poll`, `deadline`. See the crate's head for the contract.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use model::Millis;

use crate::candidate::Candidate;
use crate::catchup::Catchup;
use crate::coordinator::Coordinator;
use crate::input::{Answer, Halt, Input, Notice, Refusal, StartError, Ticket, Wish, earliest};
use crate::membership::{Incarnation, MEMBERS_MAX, Member, Membership, ReplicaId, display_ids};
use crate::message::{Envelope, Message};
use crate::outbox::Outbox;
use crate::planted::{Planted, PlantedBug};
use crate::position::{Ballot, Position};
use crate::record::{Record, Status};
use crate::recovery::Recovery;
use crate::settings::Settings;
use crate::state::State;
use crate::value::Value;

/// What a replica is started with.
#[derive(Debug, Clone)]
pub struct Start {
    pub settings: Settings,
    /// The fold of the records on the disk; `None` when there are none.
    pub stored: Option<State>,
    /// Records that had been durable are missing or unreadable: the replica must not vote on the strength of the rest. To be
    /// said at every start until [`Record::Reborn`] is durable.
    pub damaged: bool,
    /// Drawn at random, never used before: becomes the disk's when it is fresh or damaged.
    pub incarnation: Incarnation,
    /// For the jitter of pauses.
    pub seed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub(crate) settings: Settings,
    pub(crate) state: State,
    pub(crate) outbox: Outbox,
    pub(crate) now: Millis,
    jitter: u64,
    wishes: VecDeque<Wish>,
    /// From this replica to itself.
    local: VecDeque<Envelope>,
    pub(crate) recovery: Recovery,
    pub(crate) catchup: Catchup,
    pub(crate) coordinator: Option<Coordinator>,
    /// Replicas that want to be admitted, as they last told.
    pub(crate) candidates: BTreeMap<ReplicaId, Candidate>,
    /// When a coordinator was last heard.
    pub(crate) heard: Option<Millis>,
    /// The highest ballot that anybody mentioned.
    pub(crate) highest: Ballot,
    mark_due: Option<Millis>,
    /// Replicas of another log, that a person was told of.
    foreign: BTreeSet<ReplicaId>,
    halted: bool,
    pub(crate) planted: Planted,
}

impl Node {
    /// # Errors
    /// The disk and the configuration contradict each other.
    pub fn start(now: Millis, start: Start) -> Result<Self, StartError> {
        Self::start_planted(now, start, Planted::default())
    }

    /// A replica that errs on purpose.
    ///
    /// # Errors
    /// As [`Node::start`].
    #[cfg(feature = "planted-bugs")]
    pub fn start_with_bug(now: Millis, start: Start, bug: PlantedBug) -> Result<Self, StartError> {
        Self::start_planted(now, start, Planted::new(bug))
    }

    fn start_planted(now: Millis, start: Start, planted: Planted) -> Result<Self, StartError> {
        let Start {
            mut settings,
            stored,
            damaged,
            mut incarnation,
            seed,
        } = start;
        check(&settings, stored.as_ref(), damaged)?;
        if planted.has(PlantedBug::KeepIdentityOfLostDisk) {
            incarnation = Incarnation(settings.replica.0);
        }
        // What one writer may leave in flight, another one has to take over whole.
        let bounds = &mut settings.bounds;
        bounds.tail = bounds.tail.max(bounds.window + 2);
        bounds.tail_bytes = bounds
            .tail_bytes
            .max(2 * (bounds.window_bytes + bounds.value_bytes));
        let fresh = stored.is_none();
        let mut state = stored.unwrap_or_default();
        state.recent_max = (settings.bounds.recent, settings.bounds.recent_bytes);
        state.tail_bytes = state.tail.iter().map(Value::weight).sum();
        if planted.has(PlantedBug::LosePromiseOnRestart) {
            state.promised = Ballot::default();
        }
        if planted.has(PlantedBug::LoseTailOnRestart) {
            state.cut_tail(0);
        }
        let mut node = Self {
            recovery: Recovery::new(now, settings.auto_initialize),
            settings,
            state,
            outbox: Outbox::default(),
            now,
            jitter: seed | 1,
            wishes: VecDeque::new(),
            local: VecDeque::new(),
            catchup: Catchup::default(),
            coordinator: None,
            candidates: BTreeMap::new(),
            // There may be one: a replica that just started knows nothing of silence.
            heard: Some(now),
            highest: Ballot::default(),
            mark_due: None,
            foreign: BTreeSet::new(),
            halted: false,
            planted,
        };
        let member = Member {
            replica: node.settings.replica,
            incarnation,
        };
        if damaged {
            node.record(Record::Reborn(member));
        } else if fresh {
            node.record(Record::Identity(member));
        }
        node.follow_membership();
        node.finish();
        Ok(node)
    }

    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When `Input::Tick` is due.
    pub fn deadline(&self) -> Option<Millis> {
        if self.halted {
            return None;
        }
        earliest([
            Some(self.recovery.next),
            self.catchup.deadline(),
            self.coordinator.as_ref().map(Coordinator::deadline),
            self.mark_due,
        ])
    }

    pub fn handle(&mut self, now: Millis, input: Input) {
        debug_assert!(self.wishes.is_empty(), "fulfil every wish before the next input");
        // A clock that jumps back must not stop the timers.
        self.now = self.now.max(now);
        if self.halted {
            return self.refuse_all(input);
        }
        match input {
            Input::Message(envelope) => {
                // A rejection is heard however many wait for the disk: it asks for no answer, and a writer that is outbid
                // ends at that message also while its disk is slow.
                let answered = !matches!(envelope.message, Message::Rejected { .. });
                if !answered || self.outbox.waiting() < self.settings.bounds.waiting {
                    self.receive(envelope);
                }
            }
            Input::Persisted { token } => self.outbox.persisted(token),
            Input::PersistFailed { reason } => {
                if !self.planted.has(PlantedBug::IgnorePersistFailure) {
                    self.halt(Halt::Disk { reason });
                }
            }
            Input::Loaded { to, first, values } => self.loaded(to, first, values),
            Input::Elect { ticket, at_least } => self.elect(Some(ticket), at_least, false),
            Input::Resign => self.resign(),
            Input::Append { entries } => self.append(entries),
            Input::Truncate { ticket, to } => self.truncate(ticket, to),
            Input::Confirm { ticket } => self.confirm(ticket, false),
            Input::CatchUp { ticket } => self.catch_up(ticket),
            Input::Change { ticket, change } => self.change(ticket, change),
            Input::Initialize => {
                self.recovery.allowed = true;
                self.recovery.next = self.now;
                self.recovery_tick();
            }
            Input::Tick => self.tick(),
        }
        self.finish();
    }

    // ---- what others may look at

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn member(&self) -> Member {
        self.state.member
    }

    /// The ballot of the elected writer on this replica.
    pub fn writer(&self) -> Option<Ballot> {
        self.coordinator
            .as_ref()
            .filter(|c| c.is_leading())
            .map(|c| c.ballot)
    }

    /// The ballot of an election or a writer on this replica.
    pub fn coordinating(&self) -> Option<Ballot> {
        self.coordinator.as_ref().map(|c| c.ballot)
    }

    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Everything that is held in memory and could grow, in entries.
    pub fn held(&self) -> usize {
        self.state.tail.len()
            + self.state.recent.len()
            + self.outbox.waiting()
            + self.candidates.len()
            + self.catchup.held()
            + self.coordinator.as_ref().map_or(0, Coordinator::held)
    }

    // ---- the loop inside

    fn tick(&mut self) {
        if self.mark_due.is_some_and(|due| due <= self.now) {
            self.mark_due = None;
            self.outbox.flush_mark();
        }
        self.recovery_tick();
        self.catchup_tick();
        self.coordinator_tick();
    }

    fn finish(&mut self) {
        loop {
            while let Some(envelope) = self.outbox.release() {
                self.dispatch(envelope);
            }
            let Some(envelope) = self.local.pop_front() else {
                break;
            };
            if self.halted {
                break;
            }
            self.receive(envelope);
        }
        if self.halted {
            return;
        }
        if self.outbox.has_mark() && self.mark_due.is_none() {
            self.mark_due = Some(Millis(self.now.0 + self.settings.timing.hello_max.0));
        }
        if let Some((token, records)) = self.outbox.take_batch() {
            self.wishes.push_back(Wish::Persist { records, token });
        }
    }

    fn receive(&mut self, envelope: Envelope) {
        let Envelope {
            from,
            to,
            incarnation,
            message,
        } = envelope;
        if self.planted.has(PlantedBug::AnswerWhileEmpty)
            && self.state.status == Status::Empty
            && matches!(message, Message::Prepare(_) | Message::Write(_))
            && let Some(incarnation) = incarnation
        {
            self.state.member.incarnation = incarnation;
        }
        let me = self.state.member;
        if to != me.replica || incarnation.is_some_and(|i| i != me.incarnation) {
            return;
        }
        // Another disk under this number, alive or remembered by the network.
        if from.replica == me.replica && from != me {
            return;
        }
        if let Some(told) = message.membership()
            && let Some(known) = &self.state.membership
            && told.log.differs(known.log)
        {
            return self.note_foreign(from.replica);
        }
        match message {
            Message::Hello(hello) => self.on_hello(from, *hello),
            Message::Prepare(prepare) => self.on_prepare(from, &prepare),
            Message::Promise(promise) => self.on_promise(from, promise),
            Message::Write(write) => self.on_write(from, write),
            Message::Written(written) => self.on_written(from, &written),
            Message::Rejected { ballot, promised } => self.on_rejected(ballot, promised),
            Message::Occupied { ballot } => self.on_occupied(ballot),
            Message::Outdated { membership, .. } => self.take_over(&membership),
            Message::NotVoting { .. } => {}
            Message::Fetch { first } => self.on_fetch(from, first),
            Message::Fetched(fetched) => self.on_fetched(from, *fetched),
        }
    }

    /// Once a replica: it says the same again and again.
    fn note_foreign(&mut self, peer: ReplicaId) {
        if self.foreign.len() < MEMBERS_MAX && self.foreign.insert(peer) {
            self.notice(Notice::OtherLog { peer });
        }
    }

    fn dispatch(&mut self, envelope: Envelope) {
        if envelope.to == self.state.member.replica {
            self.local.push_back(envelope);
        } else {
            self.wishes.push_back(Wish::Send(envelope));
        }
    }

    fn envelope(&self, to: ReplicaId, incarnation: Option<Incarnation>, message: Message) -> Envelope {
        Envelope {
            from: self.state.member,
            to,
            incarnation,
            message,
        }
    }

    /// Says it at once: it rests on nothing of this disk.
    pub(crate) fn send(&mut self, to: Member, message: Message) {
        let envelope = self.envelope(to.replica, Some(to.incarnation), message);
        self.dispatch(envelope);
    }

    /// As [`Node::send`], to whichever disk that replica has.
    pub(crate) fn send_to(&mut self, to: ReplicaId, message: Message) {
        let envelope = self.envelope(to, None, message);
        self.dispatch(envelope);
    }

    /// Says it when everything recorded so far is durable.
    pub(crate) fn say(&mut self, to: Member, message: Message) {
        self.say_to(to.replica, Some(to.incarnation), message);
    }

    pub(crate) fn say_to(&mut self, to: ReplicaId, incarnation: Option<Incarnation>, message: Message) {
        let envelope = self.envelope(to, incarnation, message);
        if let Some(envelope) = self.outbox.hold(envelope) {
            self.dispatch(envelope);
        }
    }

    pub(crate) fn record(&mut self, record: Record) {
        let (begin, promised) = (self.state.begin, self.state.promised);
        self.state.apply(&record);
        if self.planted.has(PlantedBug::MembershipPromisesNothing)
            && matches!(record, Record::Membership(_) | Record::Learned { .. })
        {
            self.state.promised = promised;
        }
        self.outbox.record(record);
        self.discard_since(begin);
    }

    /// What was accepted up to `to` is agreed. Not worth a flush: it can be learned again.
    pub(crate) fn commit(&mut self, to: Position) {
        let (begin, learned) = (self.state.begin, self.state.learned);
        self.state.apply(&Record::Committed(to));
        self.outbox.mark(learned, self.state.learned);
        self.discard_since(begin);
    }

    fn discard_since(&mut self, begin: Position) {
        if self.state.begin > begin {
            self.wishes.push_back(Wish::Discard {
                before: self.state.begin,
            });
        }
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.wishes.push_back(Wish::Answer { ticket, answer });
    }

    pub(crate) fn wish(&mut self, wish: Wish) {
        self.wishes.push_back(wish);
    }

    pub(crate) fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        self.answer(ticket, Answer::Refused(refusal));
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.wishes.push_back(Wish::Notice(notice));
    }

    pub(crate) fn halt(&mut self, halt: Halt) {
        if !self.halted {
            self.halted = true;
            self.stop_coordinating(None);
            self.end_catch_ups();
            self.wishes.retain(|wish| matches!(wish, Wish::Answer { .. }));
            self.wishes.push_back(Wish::Halt(halt));
        }
    }

    fn refuse_all(&mut self, input: Input) {
        let status = self.state.status;
        let tickets = match input {
            Input::Append { entries } => entries.into_iter().map(|(ticket, _)| ticket).collect(),
            Input::Elect { ticket, .. }
            | Input::Truncate { ticket, .. }
            | Input::Confirm { ticket }
            | Input::CatchUp { ticket }
            | Input::Change { ticket, .. } => vec![ticket],
            _ => Vec::new(),
        };
        for ticket in tickets {
            self.refuse(ticket, Refusal::NotVoting { status });
        }
    }

    /// A pause with up to half of it added, so that replicas do not keep step.
    pub(crate) fn after(&mut self, pause: Millis) -> Millis {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        Millis(self.now.0 + pause.0 + self.jitter % (pause.0 / 2 + 1))
    }

    // ---- status and membership

    pub(crate) fn is_voting(&self) -> bool {
        self.state.status == Status::Voting
            || self.state.status == Status::Recovering && self.planted.has(PlantedBug::VoteWhileRecovering)
    }

    pub(crate) fn set_status(&mut self, to: Status) {
        let from = self.state.status;
        if from != to {
            self.record(Record::Status(to));
            self.notice(Notice::Status { from, to });
            if to == Status::Voting {
                self.recovery.attempt = 0;
            }
        }
    }

    /// A peer knows this membership to be agreed.
    pub(crate) fn take_over(&mut self, membership: &Arc<Membership>) {
        let known = self.state.membership.as_ref().map(|m| m.since);
        if known.is_none_or(|known| known < membership.since) {
            self.record(Record::Membership(Arc::clone(membership)));
            // All in front of a membership was agreed before it was proposed. Its proposer may be gone before anybody was
            // told that the entry itself is agreed: who has accepted it knows now.
            let at = membership.since;
            if at > self.state.learned
                && self.state.value(at) == Some(&Value::Membership(Arc::clone(membership)))
            {
                self.commit(at);
            }
            self.notice(Notice::Membership(Arc::clone(membership)));
            self.follow_membership();
        }
    }

    /// After the known membership or the learned prefix changed: what this replica is now.
    pub(crate) fn follow_membership(&mut self) {
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        let status = self.state.status;
        let me = self.state.member;
        match membership.member(me.replica) {
            Some(member) if member == me => {
                let learned = self.state.learned >= membership.since
                    || self.planted.has(PlantedBug::VoteBeforeCaughtUp);
                if status != Status::Voting {
                    self.set_status(if learned {
                        Status::Voting
                    } else {
                        Status::Recovering
                    });
                }
            }
            Some(other) => {
                if status == Status::Voting {
                    return self.halt(Halt::Superseded {
                        replica: me.replica,
                        by: other.incarnation,
                    });
                }
                self.set_status(Status::Recovering);
            }
            None => {
                if status != Status::Recovering {
                    self.notice(Notice::NotAMember {
                        members: Arc::clone(&membership),
                    });
                }
                self.set_status(Status::Recovering);
            }
        }
        self.candidates
            .retain(|_, candidate| !membership.contains(candidate.member));
        self.coordinator_follows(&membership);
    }
}

fn check(settings: &Settings, stored: Option<&State>, damaged: bool) -> Result<(), StartError> {
    if let Some(initial) = &settings.initial
        && (initial.is_empty() || initial.len() > MEMBERS_MAX)
    {
        return Err(StartError::MemberCount { count: initial.len() });
    }
    let Some(stored) = stored else { return Ok(()) };
    if !damaged && stored.member.replica != settings.replica {
        return Err(StartError::OtherReplica {
            stored: stored.member.replica,
            configured: settings.replica,
        });
    }
    let agreed = stored.membership.as_ref().map(|m| m.ids());
    match (&settings.initial, agreed) {
        (Some(initial), Some(agreed)) if *initial != agreed => Err(StartError::MembersContradict {
            configured: display_ids(initial),
            agreed: display_ids(&agreed),
        }),
        _ => Ok(()),
    }
}
