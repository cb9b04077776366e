//! `bulkhead run`: launch a container, in the foreground or detached.

use api::client_json;
use client::{Agent, Endpoint, Reconnect, Resumable};
use model::{ContainerId, Fault, LaunchSpec, Termination};
use net::queue::Sender;

use crate::args::Format;
use crate::failure::{About, Failure, Outcome};
use crate::foreground::{
    Connected, LastOutput, Session, SessionEnd, SessionOptions, Target, end_notice, exit_status, terminal,
};
use crate::output::{complain, print, print_json_line, short_id};
use crate::run_args::RunArgs;

pub(crate) async fn run(agent: &Agent, format: Format, args: RunArgs) -> Outcome {
    let (detach, interactive) = (args.detach, args.interactive);
    let with_stdin = interactive || !(detach || terminal::stdin_would_stop_us());
    let spec = args.into_spec(with_stdin)?;
    let label = spec.name.as_ref().map(|name| name.as_str().to_owned());
    let what = label.clone().unwrap_or_else(|| spec.command[0].clone());
    if detach {
        let launched = agent.launch(&spec, None, false).await.about(&what)?;
        match format {
            Format::Json => {
                let status = launched.container.inspect().await.about(&what)?.status;
                print_json_line(&client_json::Container::from(&status))?;
            }
            Format::Table => print(&format!("{}\n", launched.id))?,
        }
        return Ok(0);
    }
    in_foreground(agent, &spec, label, &what, with_stdin).await
}

async fn in_foreground(
    agent: &Agent,
    spec: &LaunchSpec,
    label: Option<String>,
    what: &str,
    with_stdin: bool,
) -> Outcome {
    let options = SessionOptions {
        terminal: spec.terminal.is_some(),
        detachable: true,
        forward_signals: true,
    };
    let mut session = Session::new(options)?;
    let output = Resumable::new(Box::new(session.console()?));
    let start = agent.launch_and_wait(spec, Some(Box::new(output.clone())), true);
    let (launched, waiting) = session
        .while_starting(start)
        .await
        .map_err(|failure| name_it(failure, what))?;
    let label = label.unwrap_or_else(|| short_id(launched.id.as_str()).to_owned());
    let resume = follow(
        agent.endpoint().clone(),
        launched.id.clone(),
        output,
        session.inputs(),
    );
    // A terminal brings an input even if we may not read ours: held, not used, since dropping it closes stdin.
    let (input, _held) = if with_stdin {
        (launched.input, None)
    } else {
        (None, launched.input)
    };
    let connected = Connected {
        target: Target::container(agent, &launched.container),
        input,
        output: launched.output,
        waiting,
        last_output: LastOutput::Whole,
    };
    let conducted = session.conduct(connected, Some(resume)).await;
    session.tell_losses(&label);
    match conducted.map_err(|failure| name_it(failure, &label))? {
        SessionEnd::Command(end) => {
            if let Some(notice) = end_notice(&label, &end) {
                complain(&notice);
            }
            Ok(exit_status(&end))
        }
        SessionEnd::Detached => {
            complain(&format!(
                "detached; the container goes on: bulkhead attach {label}"
            ));
            Ok(0)
        }
    }
}

fn name_it(failure: Failure, what: &str) -> Failure {
    match failure {
        Failure::Fault { what: None, fault } => Failure::Fault {
            what: Some(what.to_owned()),
            fault,
        },
        other => other,
    }
}

/// The agent was restarted under the container: goes on where the output was cut.
async fn follow(
    endpoint: Endpoint,
    id: ContainerId,
    output: Resumable,
    inputs: Sender<client::Input>,
) -> Result<Termination, Fault> {
    let on_input = |input: Option<client::Input>| {
        if let Some(input) = input {
            // Full when stdin was never written since the last restart; that one is dead as well then.
            let _ = inputs.try_push(input);
        }
    };
    let (termination, output) = Reconnect::default()
        .follow(&endpoint, &id, &output, on_input)
        .await?;
    if output == client::OutputEnded::Cut {
        complain(&format!(
            "the agent went away before all of the output had come; see it with: bulkhead logs {id}"
        ));
    }
    Ok(termination)
}
