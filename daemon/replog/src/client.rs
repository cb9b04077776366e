//! A replica in another process, as a program asks it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use net::queue::{OneshotSender, oneshot};
use net::rpc::RpcLimits;
use replog_core::{Position, Value};
use wire::replog_capnp::{change_request, log};

use crate::codec;
use crate::replica::ReplicaStatus;

const CONNECT: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, String>;

/// Entries and bytes of one call, roughly: what is more waits for the next one.
const TOGETHER: usize = 4096;
const TOGETHER_BYTES: usize = 4 << 20;

/// A connection; clones are the same one.
#[derive(Clone)]
pub struct Client {
    log: log::Client,
    appends: Rc<Appends>,
}

/// What is appended while a call is on its way goes together with the next one: an answer costs the replica as much for one
/// entry as for many.
#[derive(Default)]
struct Appends {
    waiting: RefCell<VecDeque<Asked>>,
    calling: Cell<bool>,
}

struct Asked {
    entries: Vec<Vec<u8>>,
    answer: OneshotSender<Result<Vec<Position>>>,
}

impl Appends {
    fn take(&self) -> Vec<Asked> {
        let mut waiting = self.waiting.borrow_mut();
        let mut together = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        while let Some(next) = waiting.front() {
            count += next.entries.len();
            bytes += next.entries.iter().map(Vec::len).sum::<usize>();
            if !together.is_empty() && (count > TOGETHER || bytes > TOGETHER_BYTES) {
                break;
            }
            together.extend(waiting.pop_front());
        }
        together
    }
}

fn said(error: capnp::Error) -> String {
    let text = error.to_string();
    // What the peer's exception is wrapped in says nothing to a person.
    text.rsplit_once("remote exception: ")
        .map_or(text.clone(), |(_, text)| text.to_owned())
}

impl Client {
    /// `HOST:PORT`. Has to be called on an event loop.
    pub async fn connect(address: &str, tls: Option<&net::Tls>) -> Result<Self> {
        let stream = net::timeout(CONNECT, crate::peers::connect(address, tls))
            .await
            .unwrap_or_else(|_| Err("no answer within 10 s".to_owned()))
            .map_err(|error| {
                format!(
                    "no replica answers at {address}: {error}; start it with `bulkhead log replica`, or write its HOST:PORT"
                )
            })?;
        let (connection, client): (_, log::Client) = net::rpc::connect(stream, &RpcLimits::default());
        net::spawn(async move { drop(connection.await) }).detach();
        let client = Self {
            log: client,
            appends: Rc::default(),
        };
        // Whether a server takes our certificate is known with its first answer only.
        if tls.is_some() {
            let asked = client.status().await;
            asked
                .map_err(|error| format!("{address}: {error}: does its authority know this certificate?"))?;
        }
        Ok(client)
    }

    pub async fn status(&self) -> Result<ReplicaStatus> {
        let answer = self.log.status_request().send().promise.await.map_err(said)?;
        let reader = answer
            .get()
            .and_then(|results| results.get_status())
            .map_err(said)?;
        codec::decode_status(reader).map_err(|error| error.to_string())
    }

    /// Makes that replica the writer, with a ballot of at least this term. The end of the log.
    pub async fn elect(&self, term: u64) -> Result<Position> {
        let mut request = self.log.elect_request();
        request.get().set_term(term);
        let answer = request.send().promise.await.map_err(said)?;
        Ok(Position(answer.get().map_err(said)?.get_position()))
    }

    /// Positions of entries, when a quorum has them. Those of one call are appended in their order.
    pub async fn append(&self, entries: &[Vec<u8>]) -> Result<Vec<Position>> {
        let (answer, answered) = oneshot();
        self.appends.waiting.borrow_mut().push_back(Asked {
            entries: entries.to_vec(),
            answer,
        });
        if !self.appends.calling.replace(true) {
            let client = self.clone();
            net::spawn(async move { client.call_until_done().await }).detach();
        }
        let gone =
            |_| Err("the connection to the replica is lost; whether it is appended is not known".to_owned());
        answered.await.unwrap_or_else(gone)
    }

    async fn call_until_done(&self) {
        loop {
            // Those that were answered, or begin together, may all have something to append.
            net::yield_now().await;
            let together = self.appends.take();
            if together.is_empty() {
                self.appends.calling.set(false);
                return;
            }
            match self.append_together(&together).await {
                Ok(outcomes) => {
                    let mut outcomes = outcomes.into_iter();
                    for asked in together {
                        let own = outcomes.by_ref().take(asked.entries.len()).collect();
                        let _ = asked.answer.send(own);
                    }
                }
                Err(error) => {
                    for asked in together {
                        let _ = asked.answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    async fn append_together(&self, together: &[Asked]) -> Result<Vec<Result<Position>>> {
        let entries = || together.iter().flat_map(|asked| &asked.entries);
        let mut request = self.log.append_each_request();
        let mut builder = request.get();
        let mut lengths = builder.reborrow().init_lengths(entries().count() as u32);
        let mut bytes = 0;
        for (at, entry) in (0..).zip(entries()) {
            lengths.set(at, entry.len() as u32);
            bytes += entry.len();
        }
        let mut rest = builder.init_bytes(bytes as u32);
        for entry in entries() {
            let (own, behind) = rest.split_at_mut(entry.len());
            own.copy_from_slice(entry);
            rest = behind;
        }
        let answer = request.send().promise.await.map_err(said)?;
        let results = answer.get().map_err(said)?;
        let mut refusals = results.get_refusals().map_err(said)?.iter();
        let positions = results.get_positions().map_err(said)?;
        let outcome = |position| match position {
            0 => {
                let text = refusals.next().and_then(|text| text.ok()?.to_string().ok());
                Err(text.unwrap_or_else(|| "refused without a reason".to_owned()))
            }
            position => Ok(Position(position)),
        };
        Ok(positions.iter().map(outcome).collect())
    }

    pub async fn truncate(&self, to: Position) -> Result<()> {
        let mut request = self.log.truncate_request();
        request.get().set_to(to.0);
        request.send().promise.await.map(|_| ()).map_err(said)
    }

    /// As many as fit into an answer, `first` being the first.
    pub async fn read(&self, first: Position, last: Position) -> Result<Vec<Value>> {
        let mut request = self.log.read_request();
        request.get().set_first(first.0);
        request.get().set_last(last.0);
        let answer = request.send().promise.await.map_err(said)?;
        let entries = answer
            .get()
            .and_then(|results| results.get_entries())
            .map_err(said)?;
        codec::decode_entries(entries).map_err(|error| error.to_string())
    }

    /// Lets the replica learn what a quorum knows.
    pub async fn catch_up(&self) -> Result<Position> {
        let answer = self.log.catch_up_request().send().promise.await.map_err(said)?;
        Ok(Position(answer.get().map_err(said)?.get_end()))
    }

    pub async fn initialize(&self) -> Result<()> {
        self.log
            .initialize_request()
            .send()
            .promise
            .await
            .map(|_| ())
            .map_err(said)
    }

    pub(crate) async fn change(
        &self,
        fill: impl FnOnce(change_request::Builder<'_>),
    ) -> Result<std::sync::Arc<replog_core::Membership>> {
        let mut request = self.log.change_request();
        fill(request.get().init_request());
        let answer = request.send().promise.await.map_err(said)?;
        let reader = answer
            .get()
            .and_then(|results| results.get_membership())
            .map_err(said)?;
        codec::decode_membership(reader).map_err(|error| error.to_string())
    }
}
