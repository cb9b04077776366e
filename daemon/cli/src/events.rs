//! `bulkhead events`: what happened.

use std::time::Duration;

use api::client_json;
use clap::Args;
use client::Agent;
use model::{Event, EventKind, Fault, FaultKind};

use crate::args::Format;
use crate::failure::Outcome;
use crate::human;
use crate::output::{complain, print, print_json_line, short_id};

/// Show what happened to containers
///
/// Each event has a number that grows by one. With -o json, one object a line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead events
  bulkhead events -f -o json
  bulkhead events --since 1200 -f       go on after event 1200")]
pub(crate) struct EventsArgs {
    /// Go on with what is still to come
    #[arg(short, long)]
    follow: bool,
    /// Only events after this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    since: u64,
}

/// The agent does not mark the end of what it remembers; it sends that without a pause.
const REPLAY_PAUSE: Duration = Duration::from_millis(300);

pub(crate) async fn events(agent: &Agent, format: Format, args: EventsArgs) -> Outcome {
    let mut events = agent.watch_events(args.since).await?;
    let mut last = args.since;
    loop {
        let next = match args.follow {
            true => events.next().await,
            false => match net::timeout(REPLAY_PAUSE, events.next()).await {
                Ok(next) => next,
                Err(net::Elapsed) => return Ok(0),
            },
        };
        let Some(event) = next else { break };
        let event = event?;
        if last > 0 && event.sequence > last + 1 {
            complain(&format!(
                "bulkhead: events {} to {} are lost",
                last + 1,
                event.sequence - 1
            ));
        }
        last = event.sequence;
        match format {
            Format::Json => print_json_line(&client_json::EventLine::from(&event))?,
            Format::Table => print(&line(&event))?,
        }
    }
    if args.follow {
        return Err(Fault::new(FaultKind::Unavailable, "the agent ended the subscription").into());
    }
    Ok(0)
}

fn line(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::State { state } => state.as_str().to_owned(),
        EventKind::Ended {
            exit_status,
            reason,
            message,
        } if message.is_empty() => {
            format!("ended with {exit_status}: {}", reason.as_str())
        }
        EventKind::Ended {
            exit_status, message, ..
        } => format!("ended with {exit_status}: {message}"),
        EventKind::LimitHit { message } => format!("limit hit: {message}"),
        EventKind::Updated => "limits updated".to_owned(),
        EventKind::Exec { command } => format!("exec {}", human::command_line(command)),
        EventKind::CleanupRetry { attempt, message } => {
            format!("cleanup failed, attempt {attempt}: {message}")
        }
        EventKind::PortRefused { port, refused } => match refused {
            0 | 1 => format!("port {port} refused: it is not the container's"),
            more => format!("port {port} refused: it is not the container's ({more} refusals)"),
        },
        EventKind::SandboxRemoved { bytes, files } => {
            format!(
                "sandbox removed: {}, {} files",
                human::bytes(*bytes),
                human::count(*files)
            )
        }
    };
    let name = event.name.as_ref().map_or(human::UNKNOWN, |name| name.as_str());
    let (at, id) = (human::timestamp(event.at_ms), short_id(event.container.as_str()));
    format!(
        "{at}  {:>6}  {id:<12}  {name:<16}  {}\n",
        event.sequence,
        human::one_line(&what)
    )
}

#[cfg(test)]
mod tests {
    use model::Reason;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            sequence: 12,
            at_ms: 1500,
            container: "0123456789abcdef".parse().unwrap(),
            name: Some("web".parse().unwrap()),
            kind: EventKind::Ended {
                exit_status: 3,
                reason: Reason::Exited,
                message: "a\nb".into(),
            },
        };
        assert_eq!(
            line(&event),
            "1970-01-01T00:00:01.500Z      12  0123456789ab  web               ended with 3: a\\nb\n"
        );
    }
}
