//! Who leads: [`crate::detection`] with ZooKeeper behind it, a known address, or a file.

use std::cell::OnceCell;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use model::{Leader, MasterInfo};
use net::queue::{Receiver, Sender, bounded};
use net::{Pool, Task, TaskSet};

use crate::detection::{Detection, Found, Input, Wish};
use crate::election::Attempt;
use crate::journal::{Journal, Trouble};
use crate::member::{ELECTION_LABEL, Member};
use crate::place::{HostPort, Place, ZkUrl};
use crate::settings::{Settings, millis, seed};
use crate::tenure::now;
use crate::watched::Watched;
use crate::zookeeper::{Session, State};

const FACTS_MAX: usize = 64;
/// Of the session's time-out: how long a server may be silent. Longer than a contender's, so that tens of thousands of agents need not ping often.
const SILENCE_PARTS: (u32, u32) = (2, 5);
/// How often a file is read, and a name resolved that could not be.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// More than any master's announcement.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Looks for the leader until it is dropped. No error ends it.
pub struct Detector {
    leader: Watched<Option<Leader>>,
    trouble: Trouble,
    /// Ends with the handle.
    _task: Task<()>,
}

impl Detector {
    /// Starts on this thread's loop.
    pub fn start(place: Place, settings: Settings) -> Self {
        let leader = Watched::new(None);
        let trouble = Trouble::default();
        let task = net::spawn(follow(place, settings, leader.clone(), trouble.clone()));
        Self {
            leader,
            trouble,
            _task: task,
        }
    }

    /// Why nobody can know now who leads. None: nothing is in the way.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// The leader as of now. None: there is none, or nobody can know.
    pub fn leader(&self) -> Option<Leader> {
        self.leader.get()
    }

    /// The leader, once it differs from what was seen here last; None at the beginning.
    pub async fn changed(&mut self) -> Option<Leader> {
        self.leader.changed().await
    }
}

type Out = Watched<Option<Leader>>;

async fn follow(place: Place, settings: Settings, out: Out, trouble: Trouble) {
    match place {
        Place::ZooKeeper(zk) => Shell::new(zk, settings, out, trouble).run().await,
        Place::Standalone(at) => standalone(at, out).await,
        Place::File(path) => file(path, settings, out, trouble).await,
    }
}

/// Always the same leader, as soon as its name is resolved.
async fn standalone(at: HostPort, out: Out) {
    let address = resolve(&at).await;
    out.set(Some(Leader {
        info: at_address(&at, address),
        term: None,
    }));
    std::future::pending::<()>().await;
}

async fn resolve(at: &HostPort) -> SocketAddr {
    let mut told = false;
    loop {
        if let Ok(ip) = at.host.parse() {
            return SocketAddr::new(ip, at.port);
        }
        let asked = (at.host.clone(), at.port);
        let found = blocking(move || asked.to_socket_addrs().map(|mut found| found.next())).await;
        match found {
            Ok(Ok(Some(address))) => return address,
            other if !told => {
                told = true;
                let why = match other {
                    Ok(Ok(_)) => "it has no address".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error,
                };
                tracing::warn!(master = %at, "can not resolve the master's name: {why}; trying again until it works");
            }
            _ => {}
        }
        net::sleep(LOOK_EVERY).await;
    }
}

/// All that is known of a master at an address.
fn at_address(at: &HostPort, address: SocketAddr) -> MasterInfo {
    MasterInfo {
        id: String::new(),
        ip: address.ip(),
        port: address.port(),
        hostname: at.host.clone(),
        version: String::new(),
        rpc_port: None,
        capabilities: Vec::new(),
    }
}

/// Names and files are asked for on a thread of their own: they may take seconds.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let pool = Pool::new(1, 1).map_err(|error| format!("start a thread: {error}"))?;
    pool.run(job).await.map_err(|error| error.to_string())
}

/// Follows what a file says: another place, or the leader itself as JSON.
async fn file(path: PathBuf, settings: Settings, out: Out, trouble: Trouble) {
    let mut known: Option<Result<String, String>> = None;
    let mut _following: Option<Task<()>> = None;
    loop {
        let asked = path.clone();
        let text = blocking(move || read(&asked)).await.and_then(|text| text);
        if known.as_ref() != Some(&text) {
            _following = None;
            out.set(None);
            trouble.take();
            match text.clone().and_then(|text| parse(&text)) {
                Ok(Said::Leader(info)) => out.set(Some(Leader { info, term: None })),
                Ok(Said::Place(place)) => {
                    _following = Some(net::spawn(Box::pin(follow(
                        place,
                        settings.clone(),
                        out.clone(),
                        trouble.clone(),
                    ))));
                }
                Err(wrong) => {
                    tracing::warn!(file = %path.display(), "no master to be found: {wrong}; looking again each second");
                    *trouble.borrow_mut() = Some(wrong);
                }
            }
            known = Some(text);
        }
        net::sleep(LOOK_EVERY).await;
    }
}

enum Said {
    Leader(MasterInfo),
    Place(Place),
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("read {}: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text.trim().to_owned())
}

fn parse(text: &str) -> Result<Said, String> {
    if text.starts_with('{') {
        let info = api::master_info::from_json(text.as_bytes());
        return info
            .map(Said::Leader)
            .map_err(|error| format!("the file's JSON is no master's: {error}"));
    }
    match text.parse() {
        Ok(Place::File(other)) => Err(format!("the file names another file, {}", other.display())),
        Ok(place) => Ok(Said::Place(place)),
        Err(error) => Err(error.to_string()),
    }
}

/// The machine and its session.
struct Shell {
    zk: ZkUrl,
    settings: Settings,
    detection: Detection,
    facts: Sender<Input>,
    inbox: Option<Receiver<Input>>,
    trial: Trial,
    out: Out,
    journal: Rc<Journal>,
}

struct Trial {
    session: Rc<OnceCell<Rc<Session>>>,
    tasks: TaskSet,
    /// The last list, and the wait for its end.
    list: Option<Task<()>>,
}

impl Trial {
    fn new() -> Self {
        Self {
            session: Rc::default(),
            tasks: TaskSet::new(),
            list: None,
        }
    }
}

impl Shell {
    fn new(zk: ZkUrl, settings: Settings, out: Out, trouble: Trouble) -> Self {
        let (facts, inbox) = bounded(FACTS_MAX);
        Self {
            journal: Rc::new(Journal::shown("detector", zk.clone(), trouble)),
            zk,
            detection: Detection::new(now(), settings.timeout_ms(), seed()),
            settings,
            facts,
            inbox: Some(inbox),
            trial: Trial::new(),
            out,
        }
    }

    async fn run(mut self) {
        let Some(mut inbox) = self.inbox.take() else {
            return;
        };
        self.step(Input::Tick);
        while let Some(deadline) = self.detection.deadline() {
            let wait = Duration::from_millis(deadline.0.saturating_sub(now().0));
            let fact = match net::timeout(wait, inbox.pop()).await {
                Ok(Some(fact)) => fact,
                Ok(None) => return,
                Err(_) => Input::Tick,
            };
            self.step(fact);
        }
    }

    fn step(&mut self, fact: Input) {
        self.detection.handle(now(), fact);
        while let Some(wish) = self.detection.poll() {
            match wish {
                Wish::Open(attempt) => self.open(attempt),
                Wish::List(attempt) => self.list(attempt),
                Wish::Read(attempt, member) => self.read(attempt, member),
                Wish::Close(_) => self.trial = Trial::new(),
                Wish::Tell(leader) => {
                    match &leader {
                        Some(leader) => {
                            tracing::info!(zookeeper = %self.zk, master = %leader.info.http(), "leader found")
                        }
                        None => tracing::info!(zookeeper = %self.zk, "no leader known"),
                    }
                    self.out.set(leader);
                }
            }
        }
    }

    fn open(&mut self, attempt: Attempt) {
        self.trial = Trial::new();
        let (zk, facts, journal) = (self.zk.clone(), self.facts.clone(), Rc::clone(&self.journal));
        let (slot, timeout) = (Rc::clone(&self.trial.session), self.settings.session_timeout);
        self.trial.tasks.spawn(async move {
            let base = zk.path().to_owned();
            let silence = timeout * SILENCE_PARTS.0 / SILENCE_PARTS.1;
            match Session::open(&zk, base, timeout, silence).await {
                Ok(session) => {
                    let mut states = session.states();
                    let timeout = millis(session.timeout());
                    let silent_for = millis(session.timeout() * SILENCE_PARTS.0 / SILENCE_PARTS.1);
                    slot.get_or_init(|| Rc::new(session));
                    tell(&facts, Input::Opened { attempt, timeout }).await;
                    loop {
                        match states.changed().await {
                            State::Connected => tell(&facts, Input::Connected { attempt }).await,
                            State::Disconnected => {
                                journal.lost_contact();
                                tell(&facts, Input::Disconnected { attempt, silent_for }).await;
                            }
                            State::Ended => break,
                        }
                    }
                }
                Err(error) => journal.trouble(&error),
            }
            tell(&facts, Input::Failed { attempt }).await;
        });
    }

    fn list(&mut self, attempt: Attempt) {
        let Some(session) = self.trial.session.get().cloned() else {
            return;
        };
        let (facts, journal) = (self.facts.clone(), Rc::clone(&self.journal));
        let task = net::spawn(async move {
            // What stays without an answer is the machine's to give up.
            match session.list().await {
                Ok((members, change)) => {
                    journal.fine();
                    tell(&facts, Input::Listed { attempt, members }).await;
                    change.come().await;
                    tell(&facts, Input::Changed { attempt }).await;
                }
                Err(error) => {
                    journal.trouble(&error);
                    tell(&facts, Input::ListFailed { attempt }).await;
                }
            }
        });
        self.trial.list = Some(task);
    }

    fn read(&mut self, attempt: Attempt, member: Member) {
        let Some(session) = self.trial.session.get().cloned() else {
            return;
        };
        let (facts, journal) = (self.facts.clone(), Rc::clone(&self.journal));
        self.trial.tasks.spawn(async move {
            let found = match session.read(&member).await {
                Ok(Some((text, _))) if member.label() != Some(ELECTION_LABEL) => unreadable(
                    &member,
                    &format!("a leader of another kind: {} bytes that are not JSON", text.len()),
                ),
                Ok(Some((text, term))) => match api::master_info::from_json(&text) {
                    Ok(info) => Found::Master(info, term),
                    Err(error) => unreadable(&member, &error.to_string()),
                },
                Ok(None) => Found::Gone,
                Err(error) => {
                    journal.trouble(&error);
                    Found::Failed
                }
            };
            tell(
                &facts,
                Input::Read {
                    attempt,
                    member,
                    found,
                },
            )
            .await;
        });
    }
}

fn unreadable(member: &Member, why: &str) -> Found {
    tracing::warn!(
        znode = member.name(),
        "the first in line can not be understood: {why}; waiting for another one"
    );
    Found::Unreadable
}

async fn tell(facts: &Sender<Input>, fact: Input) {
    // Closed: nobody looks any more.
    let _closed = facts.push(fact).await;
}
