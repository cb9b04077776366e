//! The group of the log's replicas: each tells where it is, and learns where the others are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use net::Task;

use crate::journal::Journal;
use crate::member::{Member, REPLICAS};
use crate::pause::Pause;
use crate::place::ZkUrl;
use crate::settings::{Settings, seed};
use crate::watched::Watched;
use crate::zookeeper::{Session, State, ZkError};

const SILENCE: u32 = 5;

/// A membership of `PATH/log_replicas`, until it is dropped. No error ends it.
pub struct Replicas {
    members: Watched<BTreeSet<String>>,
    /// Ends with the handle.
    _task: Task<()>,
}

impl Replicas {
    /// Joins on this thread's loop. `own`: one line by which others find this one; more than one process of the same line count as one.
    pub fn join(zk: ZkUrl, own: String, settings: Settings) -> Self {
        let members = Watched::new(BTreeSet::from([own.clone()]));
        let out = members.clone();
        let task = net::spawn(async move {
            let journal = Journal::new("log_replicas", zk.clone());
            let mut pause = Pause::new(seed());
            loop {
                match stay(&zk, &own, &settings, &out, &journal, &mut pause).await {
                    Ok(()) => journal.lost_contact(),
                    Err(error) => journal.trouble(&error),
                }
                net::sleep(pause.take().duration()).await;
            }
        });
        Self { members, _task: task }
    }

    /// As listed last, always with the own one. Without ZooKeeper the last known stay: the log can go on among them.
    pub fn members(&self) -> BTreeSet<String> {
        self.members.get()
    }

    /// The members, once they differ from what was seen here last; at first this one alone.
    pub async fn changed(&mut self) -> BTreeSet<String> {
        self.members.changed().await
    }
}

/// One session, from its beginning to its end.
async fn stay(
    zk: &ZkUrl,
    own: &str,
    settings: &Settings,
    out: &Watched<BTreeSet<String>>,
    journal: &Journal,
    pause: &mut Pause,
) -> Result<(), ZkError> {
    let timeout = settings.session_timeout;
    let base = format!("{}/{REPLICAS}", zk.path());
    let session = Session::open(zk, base, timeout, timeout / SILENCE).await?;
    let mut states = session.states();
    let ended = async { while states.changed().await != State::Ended {} };
    let work = async {
        session.join(None, own.as_bytes()).await?;
        journal.fine();
        pause.reset();
        follow(&session, own, out).await
    };
    futures::pin_mut!(ended, work);
    match futures::future::select(ended, work).await {
        futures::future::Either::Left(_) => Ok(()),
        futures::future::Either::Right((result, _)) => result,
    }
}

/// Lists for as long as the session answers.
async fn follow(session: &Session, own: &str, out: &Watched<BTreeSet<String>>) -> Result<(), ZkError> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let (members, change) = session.list().await?;
        known.retain(|name, _| members.iter().any(|member| member.name() == name));
        for member in &members {
            if !known.contains_key(member.name()) {
                learn(session, member, &mut known).await?;
            }
        }
        let mut told: BTreeSet<String> = known.values().cloned().collect();
        told.insert(own.to_owned());
        out.set(told);
        // Now and then without a call, so that nothing hangs on one that never comes.
        let _elapsed = net::timeout(6 * session.timeout(), change.come()).await;
        // Ends and returns of others come in bursts.
        net::sleep(Duration::from_millis(20)).await;
    }
}

async fn learn(
    session: &Session,
    member: &Member,
    known: &mut BTreeMap<String, String>,
) -> Result<(), ZkError> {
    if let Some((text, _)) = session.read(member).await? {
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        if !text.is_empty() {
            known.insert(member.name().to_owned(), text);
        }
    }
    Ok(())
}
