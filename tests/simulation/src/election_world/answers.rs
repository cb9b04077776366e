//! What the servers make of a question, and what comes back.

use coordination::detection::{self, Found};
use coordination::election::{self, Attempt};
use model::Millis;

use super::{Event, Fact, Link, MASTERS, PlantedBug, Question, TIMEOUT, World, announcement};

impl World {
    pub(super) fn question(
        &mut self,
        number: usize,
        life: u64,
        attempt: Attempt,
        session: Option<u64>,
        question: Question,
    ) {
        if question == Question::Close {
            if let Some(session) = session.filter(|_| self.ensemble.quorum) {
                self.ensemble.close(session);
                self.calls();
            }
            return;
        }
        // A follower that is cut off from the others answers reads, for a while.
        let isolated = self.random.one_in(10) && !self.quiet;
        let served = match question {
            Question::Open | Question::Join => self.ensemble.quorum,
            Question::Beat if self.bug == Some(PlantedBug::FollowerAnswers) => {
                self.ensemble.quorum || isolated
            }
            Question::Beat => self.ensemble.quorum && !isolated,
            _ => self.ensemble.quorum || isolated,
        };
        if !served || self.processes[number].life != life {
            return;
        }
        if question != Question::Open && !session.is_some_and(|session| self.ensemble.is_open(session)) {
            let fact = match number < MASTERS {
                true => Fact::Master(election::Input::Failed { attempt }),
                false => Fact::Agent(detection::Input::Failed { attempt }),
            };
            return self.answer(number, life, fact);
        }
        if let Some(session) = session.filter(|_| !isolated) {
            self.ensemble.touch(self.now, session, &mut self.random);
        }
        if let Some(fact) = self.deed(number, attempt, session, question) {
            self.answer(number, life, fact);
        }
        self.calls();
    }

    fn deed(
        &mut self,
        number: usize,
        attempt: Attempt,
        session: Option<u64>,
        question: Question,
    ) -> Option<Fact> {
        let asked_at = self.asked_at(number);
        Some(match (number < MASTERS, question) {
            (master, Question::Open) => {
                let opened = self.ensemble.open(self.now, attempt);
                // Nobody waits for it any more: it will expire.
                if self.processes[number].attempt != Some(attempt) {
                    return None;
                }
                self.processes[number].session = Some(opened);
                let timeout = Millis(TIMEOUT);
                match master {
                    true => Fact::Master(election::Input::Opened {
                        attempt,
                        timeout,
                        asked_at,
                    }),
                    false => Fact::Agent(detection::Input::Opened { attempt, timeout }),
                }
            }
            (true, Question::Join) => {
                let node = self.ensemble.join(session?, number);
                Fact::Master(election::Input::Joined {
                    attempt,
                    member: node.member,
                    term: node.term,
                    asked_at,
                })
            }
            (true, Question::Beat) => Fact::Master(election::Input::Heard { attempt, asked_at }),
            (true, _) => {
                let members = self.ensemble.list(session?, &mut self.random);
                Fact::Master(election::Input::Listed { attempt, members })
            }
            (false, Question::Read(member)) => {
                let found = self.ensemble.read(&member);
                let found = found.map_or(Found::Gone, |node| {
                    Found::Master(announcement(node.owner), node.term)
                });
                Fact::Agent(detection::Input::Read {
                    attempt,
                    member,
                    found,
                })
            }
            (false, _) => {
                let members = self.ensemble.list(session?, &mut self.random);
                Fact::Agent(detection::Input::Listed { attempt, members })
            }
        })
    }

    /// The asker's clock when the question arrived: a right shell says when it asked, which is earlier.
    fn asked_at(&self, number: usize) -> Millis {
        let process = &self.processes[number];
        if self.bug == Some(PlantedBug::CountsFromAnswer) {
            // Some seconds after the servers counted.
            return process.clock(self.now + TIMEOUT * 2 / 5);
        }
        process.clock(self.now)
    }

    fn answer(&mut self, number: usize, life: u64, fact: Fact) {
        // Lost after the deed.
        let lost = !self.quiet && number < MASTERS && self.random.one_in(25);
        if !lost && self.processes[number].link != Link::Mute {
            let delay = self.delay();
            self.plan(delay, Event::Fact(number, life, fact));
        }
    }
}
