//! A master that wants to lead: [`crate::election`] with ZooKeeper behind it.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use model::MasterInfo;
use net::queue::{Receiver, Sender, bounded};
use net::{Notify, Task, TaskSet};

use crate::election::{Attempt, Election, Input, Standing, Wish};
use crate::journal::Journal;
use crate::member::{ELECTION_LABEL, Member};
use crate::place::ZkUrl;
use crate::settings::{Settings, millis, seed};
use crate::tenure::{Tenure, now};
use crate::watched::Watched;
use crate::zookeeper::{Session, State};

/// Facts on their way: each attempt has a handful of questions under way.
const FACTS_MAX: usize = 64;
/// A server that has been silent for this part of the session's time-out is left: so a frozen one costs two of the six beats, not the leadership.
const SILENCE: u32 = 5;
/// A beat is given up after this part of the session's time-out, to be sent again.
const BEAT_PART: u32 = 3;
/// Others need not wait for the end of a session that is given up; nobody waits for this longer.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where this process stands in the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidacy {
    /// Not in line, as far as is known: ZooKeeper has not answered yet, or not lately.
    Contending,
    /// Somebody else is before us.
    StandBy,
    Elected(Tenure),
}

/// Contends until it is dropped or withdrawn. No error ends it: whatever ZooKeeper does, it tries again.
pub struct Contender {
    candidacy: Watched<Candidacy>,
    facts: Sender<Input>,
    gone: Notify,
    /// Ends with the handle.
    _task: Task<()>,
}

impl Contender {
    /// Starts on this thread's loop.
    pub fn start(zk: ZkUrl, me: &MasterInfo, settings: Settings) -> Self {
        let (facts, inbox) = bounded(FACTS_MAX);
        let candidacy = Watched::new(Candidacy::Contending);
        let gone = Notify::new();
        let shell = Shell {
            journal: Rc::new(Journal::new("contender", zk.clone())),
            zk,
            text: api::master_info::to_json(me).to_string().into_bytes().into(),
            election: Election::new(now(), settings.timeout_ms(), seed()),
            settings,
            facts: facts.clone(),
            trial: Trial::new(Attempt(0)),
            candidacy: candidacy.clone(),
            tenure: None,
        };
        let ended = gone.clone();
        let task = net::spawn(async move {
            shell.run(inbox).await;
            ended.set();
        });
        Self {
            candidacy,
            facts,
            gone,
            _task: task,
        }
    }

    /// As of now.
    pub fn candidacy(&self) -> Candidacy {
        match self.candidacy.get() {
            // The loop may not have come to its timer yet.
            Candidacy::Elected(tenure) if !tenure.holds() => Candidacy::Contending,
            other => other,
        }
    }

    /// The candidacy, once it differs from what was seen here last; at first what it is then, if it is no longer the first one.
    pub async fn changed(&mut self) -> Candidacy {
        self.candidacy.changed().await
    }

    /// Leaves the line: the own znode is removed, so others need not wait for the session's end. A second at most.
    pub async fn withdraw(self) {
        if self.facts.push(Input::Withdraw).await.is_ok() {
            // Elapsed: the session's end will tell the others.
            let _late = net::timeout(2 * GOODBYE, self.gone.wait()).await;
        }
    }
}

struct Shell {
    zk: ZkUrl,
    text: Rc<[u8]>,
    settings: Settings,
    election: Election,
    facts: Sender<Input>,
    trial: Trial,
    candidacy: Watched<Candidacy>,
    tenure: Option<Tenure>,
    journal: Rc<Journal>,
}

/// The present attempt. All that it asks ends with it.
struct Trial {
    attempt: Attempt,
    session: Rc<OnceCell<Rc<Session>>>,
    member: Rc<OnceCell<Member>>,
    tasks: TaskSet,
    /// The last list, and the wait for its end.
    list: Option<Task<()>>,
}

impl Trial {
    fn new(attempt: Attempt) -> Self {
        Self {
            attempt,
            session: Rc::default(),
            member: Rc::default(),
            tasks: TaskSet::new(),
            list: None,
        }
    }

    /// Leaves: others need not wait for the session's end.
    async fn close(self) {
        // Its questions end first: an answer to one of them is nobody's any more.
        drop((self.tasks, self.list));
        if let (Some(session), Some(member)) = (self.session.get(), self.member.get()) {
            // No matter how it ends: the session is dropped, and its end removes the znode as well.
            let _removed = net::timeout(GOODBYE, session.remove(member)).await;
        }
    }
}

impl Shell {
    async fn run(mut self, mut inbox: Receiver<Input>) {
        self.step(Input::Tick).await;
        // Without a deadline it has withdrawn.
        while let Some(deadline) = self.election.deadline() {
            let wait = Duration::from_millis(deadline.0.saturating_sub(now().0));
            let fact = match net::timeout(wait, inbox.pop()).await {
                Ok(Some(fact)) => fact,
                Ok(None) => return,
                Err(_) => Input::Tick,
            };
            self.step(fact).await;
        }
    }

    async fn step(&mut self, fact: Input) {
        let withdraws = fact == Input::Withdraw;
        self.election.handle(now(), fact);
        // Before anything else: what was just learned may have ended the right to lead, or prolonged it.
        self.fence();
        while let Some(wish) = self.election.poll() {
            match wish {
                Wish::Open(attempt) => self.open(attempt),
                Wish::Join(_) => self.join(),
                Wish::List(_) => self.list(),
                Wish::Beat(_) => self.beat(),
                Wish::Close(attempt) => {
                    let closing = std::mem::replace(&mut self.trial, Trial::new(attempt)).close();
                    if withdraws {
                        closing.await;
                    } else {
                        net::spawn(closing).detach();
                    }
                }
                Wish::Tell(standing) => self.tell(standing),
            }
        }
    }

    fn fence(&mut self) {
        match (&self.tenure, self.election.tenure()) {
            (Some(tenure), Some((term, fence))) if tenure.term() == term => tenure.extend(fence),
            (Some(tenure), _) => tenure.end(),
            (None, _) => {}
        }
    }

    fn tell(&mut self, standing: Standing) {
        self.tenure = None;
        let candidacy = match (standing, self.election.tenure()) {
            (Standing::Elected(_), Some((term, fence))) => {
                let tenure = Tenure::new(term, fence);
                self.tenure = Some(tenure.clone());
                tracing::info!(zookeeper = %self.zk, %term, "elected");
                Candidacy::Elected(tenure)
            }
            (Standing::StandBy, _) => {
                tracing::info!(zookeeper = %self.zk, "standing by: another one is before this one");
                Candidacy::StandBy
            }
            // Elected and over within one step: it never was.
            (Standing::Contending | Standing::Elected(_), _) => {
                tracing::info!(zookeeper = %self.zk, "out of the line for leadership");
                Candidacy::Contending
            }
        };
        self.candidacy.set(candidacy);
    }

    fn open(&mut self, attempt: Attempt) {
        self.trial = Trial::new(attempt);
        let (zk, facts, journal) = (self.zk.clone(), self.facts.clone(), Rc::clone(&self.journal));
        let (slot, timeout) = (Rc::clone(&self.trial.session), self.settings.session_timeout);
        self.trial.tasks.spawn(async move {
            let asked_at = now();
            let base = zk.path().to_owned();
            match Session::open(&zk, base, timeout, timeout / SILENCE).await {
                Ok(session) => {
                    let (timeout, mut states) = (millis(session.timeout()), session.states());
                    slot.get_or_init(|| Rc::new(session));
                    tell(
                        &facts,
                        Input::Opened {
                            attempt,
                            timeout,
                            asked_at,
                        },
                    )
                    .await;
                    loop {
                        match states.changed().await {
                            State::Connected => journal.fine(),
                            State::Disconnected => journal.lost_contact(),
                            State::Ended => break,
                        }
                    }
                }
                Err(error) => journal.trouble(&error),
            }
            tell(&facts, Input::Failed { attempt }).await;
        });
    }

    fn join(&mut self) {
        let Some(session) = self.trial.session.get().cloned() else {
            return;
        };
        let (attempt, limit) = (self.trial.attempt, session.timeout());
        let (text, slot, journal) = (
            Rc::clone(&self.text),
            Rc::clone(&self.trial.member),
            Rc::clone(&self.journal),
        );
        let facts = self.facts.clone();
        self.trial.tasks.spawn(async move {
            let asked_at = now();
            let fact = match net::timeout(limit, session.join(Some(ELECTION_LABEL), &text)).await {
                Ok(Ok((member, term))) => {
                    journal.fine();
                    let member = slot.get_or_init(|| member).clone();
                    Input::Joined {
                        attempt,
                        member,
                        term,
                        asked_at,
                    }
                }
                Ok(Err(error)) => {
                    journal.trouble(&error);
                    Input::Failed { attempt }
                }
                // It may have been made, or not: the session is given up, and with it whatever was made.
                Err(_) => Input::Failed { attempt },
            };
            tell(&facts, fact).await;
        });
    }

    fn list(&mut self) {
        let Some(session) = self.trial.session.get().cloned() else {
            return;
        };
        let (attempt, limit, facts) = (self.trial.attempt, session.timeout(), self.facts.clone());
        let task = net::spawn(async move {
            let Ok(Ok((members, change))) = net::timeout(limit, session.list()).await else {
                return tell(&facts, Input::ListFailed { attempt }).await;
            };
            tell(&facts, Input::Listed { attempt, members }).await;
            change.come().await;
            tell(&facts, Input::Changed { attempt }).await;
        });
        self.trial.list = Some(task);
    }

    fn beat(&mut self) {
        let Some(session) = self.trial.session.get().cloned() else {
            return;
        };
        let (attempt, facts) = (self.trial.attempt, self.facts.clone());
        let limit = session.timeout() / BEAT_PART;
        self.trial.tasks.spawn(async move {
            let asked_at = now();
            let fact = match net::timeout(limit, session.beat()).await {
                Ok(Ok(())) => Input::Heard { attempt, asked_at },
                _ => Input::Missed { attempt },
            };
            tell(&facts, fact).await;
        });
    }
}

impl Drop for Shell {
    /// The session ends with it, and others are elected at once.
    fn drop(&mut self) {
        if let Some(tenure) = &self.tenure {
            tenure.end();
        }
    }
}

async fn tell(facts: &Sender<Input>, fact: Input) {
    // Closed: nobody contends any more.
    let _closed = facts.push(fact).await;
}
