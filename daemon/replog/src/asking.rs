//! Questions to the core and who waits for their answers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use net::queue::{OneshotReceiver, OneshotSender, oneshot};
use replog_core::{Answer, Input, Position, Ticket};

use crate::error::LogError;
use crate::replica::Replica;

type Answers = Vec<Option<Answer>>;

/// Who waits for which answer.
#[derive(Default)]
pub struct Tickets {
    waiting: RefCell<HashMap<Ticket, (Rc<Group>, usize)>>,
    last: Cell<u64>,
}

/// Questions whose answers are wanted together.
struct Group {
    answers: RefCell<Answers>,
    missing: Cell<usize>,
    done: Cell<Option<OneshotSender<Answers>>>,
}

impl Tickets {
    /// That many, and their answers when all of them are there; canceled when the replica stops before.
    fn take(&self, count: usize) -> (Vec<Ticket>, OneshotReceiver<Answers>) {
        let (sender, receiver) = oneshot();
        let group = Rc::new(Group {
            answers: RefCell::new(vec![None; count]),
            missing: Cell::new(count),
            done: Cell::new(Some(sender)),
        });
        let mut waiting = self.waiting.borrow_mut();
        let tickets = (0..count).map(|at| {
            let ticket = Ticket(self.last.get() + 1);
            self.last.set(ticket.0);
            waiting.insert(ticket, (Rc::clone(&group), at));
            ticket
        });
        (tickets.collect(), receiver)
    }

    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        let Some((group, at)) = self.waiting.borrow_mut().remove(&ticket) else {
            return;
        };
        group.answers.borrow_mut()[at] = Some(answer);
        group.missing.set(group.missing.get() - 1);
        if group.missing.get() == 0
            && let Some(done) = group.done.take()
        {
            // Whoever asked may have left.
            let _ = done.send(group.answers.take());
        }
    }

    /// Nobody is answered any more.
    pub fn clear(&self) {
        self.waiting.take();
    }

    fn forget(&self, tickets: &[Ticket]) {
        let mut waiting = self.waiting.borrow_mut();
        for ticket in tickets {
            waiting.remove(ticket);
        }
    }
}

impl Replica {
    /// Appends; ready when a quorum has it on disk. Those that are called together share messages and flushes.
    pub async fn append(&self, bytes: impl Into<Arc<[u8]>>) -> Result<Position, LogError> {
        let outcome = self.append_each(vec![bytes.into()]).await?.pop();
        outcome.unwrap_or(Err(LogError::Lost))
    }

    /// [`Replica::append`] of several, in their order; each is appended or refused by itself. `Err`: nothing is known of any.
    pub async fn append_each(
        &self,
        entries: Vec<Arc<[u8]>>,
    ) -> Result<Vec<Result<Position, LogError>>, LogError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let (tickets, answers) = self.0.tickets.take(entries.len());
        let first = {
            let mut appends = self.0.appends.borrow_mut();
            let first = appends.is_empty();
            appends.extend(tickets.iter().copied().zip(entries));
            first
        };
        if first {
            let replica = self.clone();
            net::spawn(async move {
                net::yield_now().await;
                let entries = replica.0.appends.take();
                replica.give(Input::Append { entries });
            })
            .detach();
        }
        let what = "whether it is appended is not known";
        let answers = self.wait_limited(&tickets, answers, what).await?;
        let outcomes = answers.into_iter().map(|answer| match answer {
            Some(Answer::Appended { position }) => Ok(position),
            answer => Err(answer.map_or(LogError::Lost, error_of)),
        });
        Ok(outcomes.collect())
    }

    /// Entries before `to` are not needed any more.
    pub async fn truncate(&self, to: Position) -> Result<Position, LogError> {
        let (tickets, answers) = self.0.tickets.take(1);
        for ticket in tickets.iter().copied() {
            self.give(Input::Truncate { ticket, to });
        }
        let what = "whether it is truncated is not known";
        match single(self.wait_limited(&tickets, answers, what).await?) {
            Answer::Truncated { position } => Ok(position),
            answer => Err(error_of(answer)),
        }
    }

    pub(crate) async fn ask(&self, input: impl Fn(Ticket) -> Input) -> Result<Answer, LogError> {
        let (tickets, answers) = self.0.tickets.take(1);
        for ticket in tickets {
            self.give(input(ticket));
        }
        self.wait(answers).await.map(single)
    }

    async fn wait(&self, answers: OneshotReceiver<Answers>) -> Result<Answers, LogError> {
        let halted = || LogError::Halted(self.0.halted.borrow().clone().unwrap_or_default());
        answers.await.map_err(|_| halted())
    }

    async fn wait_limited(
        &self,
        tickets: &[Ticket],
        answers: OneshotReceiver<Answers>,
        what: &'static str,
    ) -> Result<Answers, LogError> {
        let limit: Duration = self.0.answer_limit.get();
        match net::timeout(limit, self.wait(answers)).await {
            Ok(answered) => answered,
            Err(_) => {
                self.0.tickets.forget(tickets);
                Err(self.no_quorum(what, limit))
            }
        }
    }
}

/// The only one of them.
fn single(answers: Answers) -> Answer {
    answers
        .into_iter()
        .flatten()
        .next()
        .unwrap_or(Answer::Lost { higher: None })
}

pub(crate) fn error_of(answer: Answer) -> LogError {
    match answer {
        Answer::NotElected(why) => LogError::NotElected(why),
        Answer::Refused(refusal) => LogError::Refused(refusal),
        _ => LogError::Lost,
    }
}
