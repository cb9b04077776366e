//! A replica as others see it: what peers say to it, and what is asked of it.

use std::sync::Arc;

use capnp::Error;
use capnp::capability::Rc;
use futures::io::{AsyncRead, AsyncWrite};
use replog_core::{Change, Position, ReplicaId};
use wire::replog_capnp::log;

use crate::codec;
use crate::error::LogError;
use crate::frames::{self, Greeted};
use crate::replica::Replica;

/// Entries of one append.
const ENTRIES_MAX: u32 = 16_384;

pub struct LogService(pub Replica);

fn check(entries: u32) -> Result<(), Error> {
    if entries > ENTRIES_MAX {
        return Err(Error::failed(format!(
            "{entries} entries, {ENTRIES_MAX} are allowed"
        )));
    }
    Ok(())
}

fn refused(error: LogError) -> Error {
    Error::failed(error.to_string())
}

impl log::Server for LogService {
    async fn status(
        self: Rc<Self>,
        _: log::StatusParams,
        mut results: log::StatusResults,
    ) -> Result<(), Error> {
        codec::encode_status(&self.0.status(), results.get().init_status());
        Ok(())
    }

    async fn elect(
        self: Rc<Self>,
        params: log::ElectParams,
        mut results: log::ElectResults,
    ) -> Result<(), Error> {
        let term = params.get()?.get_term();
        let (position, ballot) = self.0.elect(term).await.map_err(refused)?;
        let mut builder = results.get();
        builder.set_position(position.0);
        codec::encode_ballot(ballot, builder.init_ballot());
        Ok(())
    }

    async fn append(
        self: Rc<Self>,
        params: log::AppendParams,
        mut results: log::AppendResults,
    ) -> Result<(), Error> {
        let entries = params.get()?.get_entries()?;
        check(entries.len())?;
        let entries: Result<Vec<Arc<[u8]>>, Error> = entries.iter().map(|entry| Ok(entry?.into())).collect();
        let outcomes = self.0.append_each(entries?).await.map_err(refused)?;
        let mut list = results.get().init_positions(outcomes.len() as u32);
        for (at, outcome) in (0..).zip(outcomes) {
            list.set(at, outcome.map_err(refused)?.0);
        }
        Ok(())
    }

    async fn append_each(
        self: Rc<Self>,
        params: log::AppendEachParams,
        mut results: log::AppendEachResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let (mut rest, lengths) = (params.get_bytes()?, params.get_lengths()?);
        check(lengths.len())?;
        let mut entries: Vec<Arc<[u8]>> = Vec::with_capacity(lengths.len() as usize);
        for length in lengths {
            let (entry, behind) = rest
                .split_at_checked(length as usize)
                .ok_or_else(|| Error::failed("lengths reach beyond the bytes".into()))?;
            entries.push(entry.into());
            rest = behind;
        }
        let outcomes = self.0.append_each(entries).await.map_err(refused)?;
        let mut builder = results.get();
        let mut positions = builder.reborrow().init_positions(outcomes.len() as u32);
        let mut refusals = Vec::new();
        for (at, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(position) => positions.set(at, position.0),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        let mut list = builder.init_refusals(refusals.len() as u32);
        for (at, refusal) in (0..).zip(&refusals) {
            list.set(at, refusal);
        }
        Ok(())
    }

    async fn truncate(
        self: Rc<Self>,
        params: log::TruncateParams,
        mut results: log::TruncateResults,
    ) -> Result<(), Error> {
        let to = Position(params.get()?.get_to());
        let position = self.0.truncate(to).await.map_err(refused)?;
        results.get().set_position(position.0);
        Ok(())
    }

    async fn read(
        self: Rc<Self>,
        params: log::ReadParams,
        mut results: log::ReadResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let (first, last) = (Position(params.get_first()), Position(params.get_last()));
        let values = self.0.read(first, last).await.map_err(refused)?;
        codec::encode_entries(&values, results.get().init_entries(values.len() as u32));
        Ok(())
    }

    async fn catch_up(
        self: Rc<Self>,
        _: log::CatchUpParams,
        mut results: log::CatchUpResults,
    ) -> Result<(), Error> {
        let end = self.0.catch_up().await.map_err(refused)?;
        results.get().set_end(end.0);
        Ok(())
    }

    async fn change(
        self: Rc<Self>,
        params: log::ChangeParams,
        mut results: log::ChangeResults,
    ) -> Result<(), Error> {
        use wire::replog_capnp::change_request as change;
        let change = match params
            .get()?
            .get_request()?
            .which()
            .map_err(|_| Error::failed("unknown change".into()))?
        {
            change::Add(id) => Change::Add(ReplicaId(id)),
            change::Remove(id) => Change::Remove(ReplicaId(id)),
            change::Replace(replace) => Change::Replace {
                out: ReplicaId(replace.get_out()),
                by: ReplicaId(replace.get_by()),
            },
        };
        let membership = self.0.change(change).await.map_err(refused)?;
        codec::encode_membership(&membership, results.get().init_membership());
        Ok(())
    }

    async fn initialize(
        self: Rc<Self>,
        _: log::InitializeParams,
        _: log::InitializeResults,
    ) -> Result<(), Error> {
        self.0.initialize();
        Ok(())
    }
}

/// Serves peers and clients on `listener` until it breaks.
pub async fn serve(
    replica: Replica,
    listener: net::TcpListener,
    limit: net::ConnectionLimit,
) -> std::io::Error {
    let tasks = net::TaskSet::new();
    let refusals = net::Refusals::default();
    net::accept_loop(&listener, &limit, |stream, guard| {
        // A peer may send what is large from the start, once its handshake is done.
        guard.handle().protect();
        let (replica, refusals) = (replica.clone(), refusals.clone());
        tasks.spawn(async move {
            let peer = stream.peer_address().ok();
            let stream = match replica.tls() {
                None => net::Link::Plain(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(secured) => net::Link::Secured(Box::new(secured)),
                    Err(error) => {
                        let why = format_args!("log: a connection was refused: TLS: {error}");
                        if let Some(line) = refusals.first(peer, why) {
                            tracing::warn!(peer = peer.map(tracing::field::display), "{line}");
                        }
                        return;
                    }
                },
            };
            let certificate = stream.peer();
            let reason = attend(stream, certificate, replica, &guard).await;
            tracing::debug!("log: a connection ended: {reason}");
        });
    })
    .await
}

/// One connection until it ends: the link of another replica, which says so first, or somebody's calls.
async fn attend<S>(
    stream: S,
    certificate: Option<net::PeerCertificate>,
    replica: Replica,
    guard: &net::ConnectionGuard,
) -> String
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    match frames::greet(stream).await {
        Ok(Greeted::Replica(stream)) => frames::receive(stream, &replica, certificate.as_ref())
            .await
            .to_string(),
        Ok(Greeted::Caller(stream)) => {
            let service: log::Client = capnp_rpc::new_client(LogService(replica));
            let limits = crate::peers::limits();
            net::rpc::serve_limited(stream, service.client, &limits, guard.handle())
                .await
                .to_string()
        }
        Err(error) => error.to_string(),
    }
}
