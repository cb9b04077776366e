//! A running replica.

use std::io::{BufRead as _, Write as _};

use replog_core::{Position, Value};

use super::{At, Format, ReadArgs, Verb};
use crate::replica::ReplicaStatus;

/// Entries of one append.
const TOGETHER: usize = 256;

type Result<T> = std::result::Result<T, String>;

pub async fn obey(verb: Verb) -> Result<()> {
    match verb {
        Verb::Init(at) => {
            at.connect().await?.initialize().await?;
            println!(
                "allowed here; the log begins when each of its first members was told so: see `bulkhead log status`"
            );
            Ok(())
        }
        Verb::Status(args) => {
            let status = args.at.connect().await?.status().await?;
            show(&status, args.output)
        }
        Verb::Read(args) => read(args).await,
        Verb::Append(at) => append(&at).await,
        Verb::Truncate(args) => {
            let log = args.at.connect().await?;
            log.elect(0).await?;
            log.truncate(Position(args.to)).await
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
        Verb::Replica(_) | Verb::Verify(_) | Verb::Salvage(_) => Ok(()),
    }
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
            "stalled": status.stalled,
        });
        println!("{value}");
        return Ok(());
    }
    println!("replica   {}", status.id);
    println!("status    {}", format!("{:?}", status.status).to_uppercase());
    if status.end < status.begin {
        println!("positions none yet");
    } else {
        let (begin, end, learned) = (status.begin, status.end, status.learned);
        println!("positions {begin} to {end}, agreed to {learned}");
    }
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
    if let Some(why) = &status.stalled {
        println!("stalled   {why}");
    }
    Ok(())
}

async fn read(args: ReadArgs) -> Result<()> {
    let log = args.at.connect().await?;
    if args.catch_up {
        log.catch_up().await?;
    }
    let known = log.status().await?;
    let mut next = args.from.map_or(known.begin, Position);
    if next < known.begin {
        return Err(format!(
            "position {next} is truncated; the log begins at {}",
            known.begin
        ));
    }
    let last = args.to.map_or(known.learned, Position).min(known.learned);
    let mut out = std::io::stdout().lock();
    while next <= last {
        let values = log.read(next, last).await?;
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
            next = next.next();
        }
    }
    Ok(())
}

async fn append(at: &At) -> Result<()> {
    let log = at.connect().await?;
    log.elect(0).await?;
    let mut lines = std::io::stdin().lock().split(b'\n');
    loop {
        let mut together = Vec::new();
        for line in lines.by_ref().take(TOGETHER) {
            together.push(line.map_err(|error| format!("cannot read stdin: {error}"))?);
        }
        if together.is_empty() {
            return Ok(());
        }
        for position in log.append(&together).await? {
            println!("{position}");
        }
    }
}

async fn change(at: &At, fill: impl FnOnce(wire::replog_capnp::change_request::Builder<'_>)) -> Result<()> {
    let log = at.connect().await?;
    log.elect(0).await?;
    let membership = log.change(fill).await?;
    let members: Vec<_> = membership.members.iter().map(|member| member.replica.0).collect();
    println!("members {members:?}, since position {}", membership.since);
    Ok(())
}
