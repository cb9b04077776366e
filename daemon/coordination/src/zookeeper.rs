//! ZooKeeper: the only door to its client.
//!
//! The client keeps one connection, moves it to another server when one falls silent, and sets its watches there again. It runs on a thread
//! of `async-io` for readiness, and on this thread's loop for the rest. A session that has ended is over: another one is opened. The client
//! tells of an expiry late (after 7/5 of the time-out when no server answers), so nothing here relies on being told.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use model::Term;
use zookeeper_client::{
    Acl, Acls, Client, CreateMode, Error, OneshotWatcher, Permission, SessionState, StateWatcher,
};

use crate::member::{self, Member};
use crate::place::ZkUrl;

/// Read by everybody, changed by those who have the credentials: what Mesos gives its nodes.
static OWNED: [Acl; 2] = [
    Acl::new_const(Permission::READ, "world", "anyone"),
    Acl::new_const(Permission::ALL, "auth", ""),
];
static OPEN: [Acl; 1] = [Acl::new_const(Permission::ALL, "world", "anyone")];

/// For looking whether a server's name has an address.
const RESOLVE: Duration = Duration::from_secs(1);

/// What ZooKeeper did not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {path} at ZooKeeper {servers}")]
pub struct ZkError {
    pub operation: &'static str,
    pub path: String,
    pub servers: String,
    #[source]
    pub cause: Cause,
}

/// Why ZooKeeper did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error(
        "no server has answered for {0:?}; see that the addresses are right and that a majority of the servers runs"
    )]
    Silence(Duration),
    #[error("no server has answered for {silent:?}, and of their names some have no address: {names}")]
    Unresolved { silent: Duration, names: String },
    #[error("connection lost")]
    Lost,
    #[error("session expired")]
    Expired,
    #[error(
        "not authorized: the znode belongs to other credentials; give those that it was made with, as zk://USER:PASSWORD@..., or \
         another path"
    )]
    NotAuthorized,
    #[error("the servers refuse to authenticate these credentials")]
    Unauthenticated,
    #[error("there is no such znode")]
    Missing,
    #[error("{0}")]
    Answer(String),
}

impl ZkError {
    /// On one line, with its cause.
    pub fn told(&self) -> String {
        format!("can not {self}: {}", self.cause)
    }
}

/// The session, as it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Connected,
    Disconnected,
    Ended,
}

/// Where tasks of the client run.
struct Loop;

impl spawns_core::Spawn for Loop {
    fn spawn(&self, task: spawns_core::Task) {
        net::spawn(Box::into_pin(task.future)).detach();
    }
}

/// One session.
pub(crate) struct Session {
    client: Client,
    base: String,
    servers: String,
    authenticated: bool,
}

impl Session {
    /// Asks for a session. `silence`: a server that has said nothing for so long is left for another one.
    pub async fn open(
        zk: &ZkUrl,
        base: String,
        timeout: Duration,
        silence: Duration,
    ) -> Result<Self, ZkError> {
        let servers = servers(zk);
        let mut connector = Client::connector()
            .with_session_timeout(timeout)
            .with_connection_timeout(silence);
        if let Some((user, password)) = zk.credentials() {
            connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
        }
        let connecting = on_this_loop(connector.connect(&servers));
        let client = match net::timeout(timeout + silence, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(Error::Timeout | Error::NoHosts | Error::ConnectionLoss)) | Err(_) => {
                return Err(ZkError {
                    operation: "open a session for",
                    path: base,
                    servers,
                    cause: why_silent(zk, timeout).await,
                });
            }
            Ok(Err(error)) => {
                return Err(ZkError {
                    operation: "open a session for",
                    path: base,
                    servers,
                    cause: cause(error),
                });
            }
        };
        Ok(Self {
            client,
            base,
            servers,
            authenticated: zk.credentials().is_some(),
        })
    }

    /// What the servers granted.
    pub fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    /// Makes the own znode, and the path to it.
    pub async fn join(&self, label: Option<&str>, text: &[u8]) -> Result<(Member, Term), ZkError> {
        let prefix = match label {
            Some(label) => format!("{}/{label}_", self.base),
            None => format!("{}/", self.base),
        };
        let options = CreateMode::EphemeralSequential.with_acls(self.acls());
        let mut made = self.client.create(&prefix, text, &options).await;
        if made == Err(Error::NoNode) {
            self.make_base().await?;
            made = self.client.create(&prefix, text, &options).await;
        }
        let (stat, sequence) = made.map_err(|error| self.error("make a znode in", error))?;
        let name = format!("{}{sequence}", prefix.rsplit('/').next().unwrap_or_default());
        let number = |name: &str| Member::parse(name).zip(u64::try_from(stat.czxid).ok());
        let (member, term) = number(&name).ok_or_else(|| {
            let answer = Cause::Answer(format!(
                "the servers named it {name:?}, made by transaction {}",
                stat.czxid
            ));
            ZkError {
                cause: answer,
                ..self.error("make a znode in", Error::Timeout)
            }
        })?;
        Ok((member, Term(term)))
    }

    /// The members now, and a call when they change.
    pub async fn list(&self) -> Result<(Vec<Member>, Change), ZkError> {
        let mut listed = self.client.get_and_watch_children(&self.base).await;
        if matches!(listed, Err(Error::NoNode)) {
            self.make_base().await?;
            listed = self.client.get_and_watch_children(&self.base).await;
        }
        let (children, _, watcher) = listed.map_err(|error| self.error("list", error))?;
        Ok((
            member::members(children.iter().map(String::as_str)),
            Change(watcher),
        ))
    }

    /// A member's text and the transaction that made it. None when it is gone.
    pub async fn read(&self, member: &Member) -> Result<Option<(Vec<u8>, Term)>, ZkError> {
        match self.client.get_data(&self.path_of(member)).await {
            Ok((text, stat)) => Ok(Some((text, Term(u64::try_from(stat.czxid).unwrap_or_default())))),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(self.error("read a member of", error)),
        }
    }

    /// An answer that went through the ensemble's leader (see [`crate::election`]).
    pub async fn beat(&self) -> Result<(), ZkError> {
        self.client
            .sync(&self.base)
            .await
            .map_err(|error| self.error("sync", error))
    }

    /// Removes the own znode, so that others need not wait for the session's end.
    pub async fn remove(&self, member: &Member) -> Result<(), ZkError> {
        match self.client.delete(&self.path_of(member), None).await {
            Ok(()) | Err(Error::NoNode) => Ok(()),
            Err(error) => Err(self.error("remove a member of", error)),
        }
    }

    pub fn states(&self) -> States {
        States(self.client.state_watcher())
    }

    async fn make_base(&self) -> Result<(), ZkError> {
        let options = CreateMode::Persistent.with_acls(self.acls());
        let made = self.client.mkdir(&self.base, &options).await;
        made.map_err(|error| self.error("make", error))
    }

    fn acls(&self) -> Acls<'static> {
        let acls: &'static [Acl] = if self.authenticated { &OWNED } else { &OPEN };
        Acls::new(acls)
    }

    fn path_of(&self, member: &Member) -> String {
        format!("{}/{}", self.base, member.name())
    }

    fn error(&self, operation: &'static str, error: Error) -> ZkError {
        ZkError {
            operation,
            path: self.base.clone(),
            servers: self.servers.clone(),
            cause: cause(error),
        }
    }
}

/// A call when the members change.
pub(crate) struct Change(OneshotWatcher);

impl Change {
    pub async fn come(self) {
        self.0.changed().await;
    }
}

pub(crate) struct States(StateWatcher);

impl States {
    /// The next state. Waits for ever after [`State::Ended`].
    pub async fn changed(&mut self) -> State {
        match self.0.changed().await {
            SessionState::SyncConnected => State::Connected,
            SessionState::Disconnected | SessionState::ConnectedReadOnly => State::Disconnected,
            // What a later version may add says nothing good.
            _ => State::Ended,
        }
    }
}

pub(crate) fn servers(zk: &ZkUrl) -> String {
    let servers: Vec<String> = zk.servers().iter().map(ToString::to_string).collect();
    servers.join(",")
}

/// Polls a future of the client's that starts tasks.
async fn on_this_loop<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _scope = spawns_core::enter(&Loop);
        future.as_mut().poll(cx)
    })
    .await
}

/// Why nobody answers: the client tries names that have no address like servers that are down.
async fn why_silent(zk: &ZkUrl, silent: Duration) -> Cause {
    let mut names = Vec::new();
    for server in zk.servers() {
        if let Ok(Err(error)) = net::timeout(RESOLVE, net::resolve(&server.host, server.port)).await {
            names.push(format!("{} ({error})", server.host));
        }
    }
    match names.is_empty() {
        true => Cause::Silence(silent),
        false => Cause::Unresolved {
            silent,
            names: names.join(", "),
        },
    }
}

fn cause(error: Error) -> Cause {
    match error {
        Error::ConnectionLoss | Error::ClientClosed => Cause::Lost,
        Error::SessionExpired | Error::SessionMoved => Cause::Expired,
        Error::NoAuth | Error::InvalidAcl => Cause::NotAuthorized,
        Error::AuthFailed => Cause::Unauthenticated,
        Error::NoNode => Cause::Missing,
        other => Cause::Answer(other.to_string()),
    }
}
