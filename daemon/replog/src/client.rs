//! A replica in another process, as a program asks it.

use std::time::Duration;

use net::rpc::RpcLimits;
use replog_core::{Position, Value};
use wire::replog_capnp::{change_request, log};

use crate::codec;
use crate::replica::ReplicaStatus;

const CONNECT: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, String>;

/// A connection; clones are the same one.
#[derive(Clone)]
pub struct Client(pub(crate) log::Client);

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
        let client = Self(client);
        // Whether a server takes our certificate is known with its first answer only.
        if tls.is_some() {
            let asked = client.status().await;
            asked
                .map_err(|error| format!("{address}: {error}: does its authority know this certificate?"))?;
        }
        Ok(client)
    }

    pub async fn status(&self) -> Result<ReplicaStatus> {
        let answer = self.0.status_request().send().promise.await.map_err(said)?;
        let reader = answer
            .get()
            .and_then(|results| results.get_status())
            .map_err(said)?;
        codec::decode_status(reader).map_err(|error| error.to_string())
    }

    /// Makes that replica the writer, with a ballot of at least this term. The end of the log.
    pub async fn elect(&self, term: u64) -> Result<Position> {
        let mut request = self.0.elect_request();
        request.get().set_term(term);
        let answer = request.send().promise.await.map_err(said)?;
        Ok(Position(answer.get().map_err(said)?.get_position()))
    }

    /// Positions of entries, when a quorum has them.
    pub async fn append(&self, entries: &[Vec<u8>]) -> Result<Vec<Position>> {
        let mut request = self.0.append_request();
        let mut list = request.get().init_entries(entries.len() as u32);
        for (at, entry) in (0..).zip(entries) {
            list.set(at, entry);
        }
        let answer = request.send().promise.await.map_err(said)?;
        let positions = answer
            .get()
            .and_then(|results| results.get_positions())
            .map_err(said)?;
        Ok(positions.iter().map(Position).collect())
    }

    pub async fn truncate(&self, to: Position) -> Result<()> {
        let mut request = self.0.truncate_request();
        request.get().set_to(to.0);
        request.send().promise.await.map(|_| ()).map_err(said)
    }

    /// As many as fit into an answer, `first` being the first.
    pub async fn read(&self, first: Position, last: Position) -> Result<Vec<Value>> {
        let mut request = self.0.read_request();
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
        let answer = self.0.catch_up_request().send().promise.await.map_err(said)?;
        Ok(Position(answer.get().map_err(said)?.get_end()))
    }

    pub async fn initialize(&self) -> Result<()> {
        self.0
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
        let mut request = self.0.change_request();
        fill(request.get().init_request());
        let answer = request.send().promise.await.map_err(said)?;
        let reader = answer
            .get()
            .and_then(|results| results.get_membership())
            .map_err(said)?;
        codec::decode_membership(reader).map_err(|error| error.to_string())
    }
}
