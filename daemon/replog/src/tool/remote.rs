//! A running replica.

use std::io::{BufRead as _, Write as _};

use net::rpc::RpcLimits;
use replog_core::Value;
use wire::replog_capnp::log;

use super::{At, Format, ReadArgs, Verb};
use crate::codec;
use crate::replica::ReplicaStatus;

/// Entries of one append.
const TOGETHER: usize = 256;

type Result<T> = std::result::Result<T, String>;

pub async fn obey(verb: Verb) -> Result<()> {
    match verb {
        Verb::Init(at) => {
            let log = connect(&at.at).await?;
            log.initialize_request().send().promise.await.map_err(said)?;
            println!("allowed; see `bulkhead log status`");
            Ok(())
        }
        Verb::Status(args) => {
            let status = status(&connect(&args.at.at).await?).await?;
            show(&status, args.output)
        }
        Verb::Read(args) => read(args).await,
        Verb::Append(at) => append(&at).await,
        Verb::Truncate(args) => {
            let log = connect(&args.at.at).await?;
            elect(&log).await?;
            let mut request = log.truncate_request();
            request.get().set_to(args.to);
            request.send().promise.await.map_err(said)?;
            Ok(())
        }
        Verb::Add(args) => change(&args.at, |mut request| request.set_add(args.id)).await,
        Verb::Remove(args) => change(&args.at, |mut request| request.set_remove(args.id)).await,
        Verb::Replace(args) => {
            change(&args.at, |request| {
                let mut replace = request.init_replace();
                replace.set_out(args.out);
                replace.set_by(args.by);
            })
            .await
        }
        Verb::Bench(args) => super::bench::run(args).await,
        Verb::Replica(_) | Verb::Verify(_) => Ok(()),
    }
}

fn said(error: capnp::Error) -> String {
    let text = error.to_string();
    // What the peer's exception is wrapped in says nothing to a person.
    text.rsplit_once("remote exception: ")
        .map_or(text.clone(), |(_, text)| text.to_owned())
}

pub async fn connect(address: &str) -> Result<log::Client> {
    use std::net::ToSocketAddrs as _;
    let resolved = address
        .to_socket_addrs()
        .map_err(|error| format!("{address}: {error}; write HOST:PORT"))?
        .next()
        .ok_or_else(|| format!("{address} has no address"))?;
    let stream = net::TcpStream::connect(resolved).await.map_err(|error| {
        format!("no replica answers at {address}: {error}; start it with `bulkhead log replica`")
    })?;
    let (connection, client): (_, log::Client) = net::rpc::connect(stream, &RpcLimits::default());
    net::spawn(async move { drop(connection.await) }).detach();
    Ok(client)
}

pub async fn elect(log: &log::Client) -> Result<()> {
    log.elect_request().send().promise.await.map(|_| ()).map_err(said)
}

async fn status(log: &log::Client) -> Result<ReplicaStatus> {
    let answer = log.status_request().send().promise.await.map_err(said)?;
    let reader = answer
        .get()
        .and_then(|results| results.get_status())
        .map_err(said)?;
    codec::decode_status(reader).map_err(|error| error.to_string())
}

fn show(status: &ReplicaStatus, form: Format) -> Result<()> {
    let members: Vec<u64> = status
        .membership
        .iter()
        .flat_map(|known| known.members.iter().map(|member| member.replica.0))
        .collect();
    if form == Format::Json {
        let value = serde_json::json!({
            "replica": status.id.0,
            "status": format!("{:?}", status.status).to_uppercase(),
            "begin": status.begin.0,
            "learned": status.learned.0,
            "end": status.end.0,
            "promised": { "term": status.promised.term, "replica": status.promised.replica.0 },
            "writer": status.writer.is_some(),
            "members": members,
            "halted": status.halted,
        });
        println!("{value}");
        return Ok(());
    }
    println!("replica   {}", status.id);
    println!("status    {}", format!("{:?}", status.status).to_uppercase());
    println!(
        "positions {} to {}, agreed to {}",
        status.begin, status.end, status.learned
    );
    println!("promised  {}", status.promised);
    println!(
        "writer    {}",
        if status.writer.is_some() {
            "this replica"
        } else {
            "not this replica"
        }
    );
    println!("members   {members:?}");
    if let Some(why) = &status.halted {
        println!("halted    {why}");
    }
    Ok(())
}

async fn read(args: ReadArgs) -> Result<()> {
    let log = connect(&args.at.at).await?;
    if args.catch_up {
        log.catch_up_request().send().promise.await.map_err(said)?;
    }
    let known = status(&log).await?;
    let mut next = args.from.unwrap_or(known.begin.0);
    if next < known.begin.0 {
        return Err(format!(
            "position {next} is truncated; the log begins at {}",
            known.begin
        ));
    }
    let last = args.to.unwrap_or(known.learned.0).min(known.learned.0);
    let mut out = std::io::stdout().lock();
    while next <= last {
        let mut request = log.read_request();
        request.get().set_first(next);
        request.get().set_last(last);
        let answer = request.send().promise.await.map_err(said)?;
        let entries = answer
            .get()
            .and_then(|results| results.get_entries())
            .map_err(said)?;
        let values = codec::decode_entries(entries).map_err(|error| error.to_string())?;
        if values.is_empty() {
            return Err(format!("the replica can't read position {next}; see its log"));
        }
        for value in &values {
            if let Value::Append(bytes) = value {
                let written = write!(out, "{next}\t")
                    .and_then(|()| out.write_all(bytes))
                    .and_then(|()| writeln!(out));
                written.map_err(|error| error.to_string())?;
            }
            next += 1;
        }
    }
    Ok(())
}

async fn append(at: &At) -> Result<()> {
    let log = connect(&at.at).await?;
    elect(&log).await?;
    let mut lines = std::io::stdin().lock().split(b'\n');
    loop {
        let mut together = Vec::new();
        for line in lines.by_ref().take(TOGETHER) {
            together.push(line.map_err(|error| format!("cannot read stdin: {error}"))?);
        }
        if together.is_empty() {
            return Ok(());
        }
        for position in append_all(&log, &together).await? {
            println!("{position}");
        }
    }
}

/// Positions of entries, when a quorum has them.
pub async fn append_all(log: &log::Client, entries: &[Vec<u8>]) -> Result<Vec<u64>> {
    let mut request = log.append_request();
    let mut list = request.get().init_entries(entries.len() as u32);
    for (at, entry) in (0..).zip(entries) {
        list.set(at, entry);
    }
    let answer = request.send().promise.await.map_err(said)?;
    let positions = answer
        .get()
        .and_then(|results| results.get_positions())
        .map_err(said)?;
    Ok(positions.iter().collect())
}

async fn change(at: &At, fill: impl FnOnce(wire::replog_capnp::change_request::Builder<'_>)) -> Result<()> {
    let log = connect(&at.at).await?;
    elect(&log).await?;
    let mut request = log.change_request();
    fill(request.get().init_request());
    let answer = request.send().promise.await.map_err(said)?;
    let reader = answer
        .get()
        .and_then(|results| results.get_membership())
        .map_err(said)?;
    let membership = codec::decode_membership(reader).map_err(|error| error.to_string())?;
    let members: Vec<_> = membership.members.iter().map(|member| member.replica.0).collect();
    println!("members {members:?}, since position {}", membership.since);
    Ok(())
}
