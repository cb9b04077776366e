//! `bulkhead attach`: join a running container.

use clap::Args;
use client::{Agent, Attached};
use model::{Fault, Termination};

use crate::failure::{About, Failure, Outcome};
use crate::foreground::{
    Connected, LastOutput, Session, SessionEnd, SessionOptions, Target, end_notice, exit_status,
};
use crate::output::{complain, label_of};

/// Join the input, output and signals of a running container
///
/// Ends with the command and with its exit status. Of a container with a terminal, Ctrl-P Ctrl-Q detaches.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead attach web
  bulkhead attach --no-stdin --no-signals web     only watch; Ctrl-C leaves it running")]
pub(crate) struct AttachArgs {
    /// Leave its stdin alone
    #[arg(long)]
    no_stdin: bool,
    /// Do not pass signals on: Ctrl-C detaches
    #[arg(long)]
    no_signals: bool,
    /// First show what is kept of its output
    #[arg(long)]
    from_start: bool,
    /// Id, beginning of an id, or name
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

impl AttachArgs {
    /// All of its output from the beginning, and nothing of our input.
    pub fn whole(container: &str) -> Self {
        Self {
            no_stdin: true,
            no_signals: false,
            from_start: true,
            container: container.to_owned(),
        }
    }
}

pub(crate) async fn attach(agent: &Agent, args: AttachArgs) -> Outcome {
    let what = args.container.as_str();
    let container = agent.container(what).await.about(what)?;
    let status = container.inspect().await.about(what)?.status;
    let label = label_of(&status).to_owned();
    let options = SessionOptions {
        terminal: status.terminal && !args.no_stdin,
        detachable: true,
        forward_signals: !args.no_signals,
    };
    let mut session = Session::new(options)?;
    let console = session.console()?;
    let Attached { input, output } = session
        .while_starting(container.attach(Box::new(console), args.from_start))
        .await
        .map_err(|failure| match failure {
            Failure::Fault { what: None, fault } => Failure::Fault {
                what: Some(label.clone()),
                fault,
            },
            other => other,
        })?;
    let target = Target::container(agent, &container);
    if options.terminal {
        // Makes a full-screen program draw itself for our size. Not being able to is no reason to stop.
        let _ = container.resize(crate::foreground::terminal::size()).await;
    }
    let input = input.filter(|_| !args.no_stdin);
    let connected = Connected {
        target,
        input,
        output: Some(output),
        waiting: container.wait(),
        last_output: LastOutput::Whole,
    };
    let resume: Option<std::future::Ready<Result<Termination, Fault>>> = None;
    let conducted = session.conduct(connected, resume).await;
    session.tell_losses(&label);
    match conducted? {
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
