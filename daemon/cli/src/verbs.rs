//! From parsed arguments to a verb, and from its outcome to an exit status.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, Command, FromArgMatches, ValueEnum};
use client::{Agent, Endpoint, EndpointError};
use model::{Fault, FaultKind};

use crate::args::{Cli, Format, Global, Verb, format_of, verb_of};
use crate::completions::completions;
use crate::failure::{Failure, Outcome, STATUS_BULKHEAD, STATUS_USAGE, runs_a_command};
use crate::output::{complain, write_failure};
use crate::{
    attach, drain, events, exec, gc, inspect, kill, logs, network, ps, run, stats, top, update, version, wait,
};

const OUTPUT_VARIABLE: &str = "BULKHEAD_OUTPUT";

/// Runs the verb of a client. `whole` is the program's command with the daemons' verbs, for completions.
pub fn main(matches: &ArgMatches, whole: Command) -> ExitCode {
    let parsed = Cli::from_arg_matches(matches).and_then(|cli| {
        let inner = matches
            .subcommand()
            .map(|(_, matches)| Global::from_arg_matches(matches))
            .transpose()?;
        Ok((cli.verb, inner.unwrap_or_default().or(cli.global)))
    });
    let (verb, global) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage_error(error, &[]),
    };
    let name = verb.name();
    let told = format(global.output).unwrap_or(Format::Table);
    match dispatch(verb, global, whole) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.tell(name, told);
            ExitCode::from(failure.status(name))
        }
    }
}

/// Tells what is wrong with a command line, or prints the help that was asked for.
pub fn usage_error(mut error: clap::Error, args: &[OsString]) -> ExitCode {
    hide_passwords(&mut error);
    let error = &error;
    let verb = verb_of(args);
    match format(format_of(args)) {
        Ok(Format::Json) if error.use_stderr() => {
            usage_fault(error).tell(verb.unwrap_or_default(), Format::Json);
        }
        // It quotes what somebody typed, or what a container is called: nothing that a terminal obeys.
        _ if args
            .iter()
            .any(|word| word.to_string_lossy().contains(char::is_control)) =>
        {
            let text = error.render().to_string();
            text.trim_end()
                .lines()
                .for_each(|line| complain(&crate::human::one_line(line)));
        }
        // Nothing can be done when nobody reads it.
        _ => drop(error.print()),
    }
    match verb {
        _ if !error.use_stderr() => ExitCode::SUCCESS,
        Some(verb) if runs_a_command(verb) => ExitCode::from(STATUS_BULKHEAD),
        _ => ExitCode::from(STATUS_USAGE),
    }
}

/// clap quotes a value that is wrong whole; one that says where masters are may hold the password for ZooKeeper, and messages
/// end up in logs.
fn hide_passwords(error: &mut clap::Error) {
    let is_place = error.get(ContextKind::InvalidArg).is_some_and(|argument| {
        ["--zk", "--master"]
            .iter()
            .any(|name| argument.to_string().contains(name))
    });
    let hidden = |text: &String| match text.contains('@') && (is_place || text.contains("://")) {
        true => coordination::without_password(text),
        false => text.clone(),
    };
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(hidden(text)))),
            ContextValue::Strings(texts) => {
                Some((kind, ContextValue::Strings(texts.iter().map(hidden).collect())))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
}

/// A wrong command line as programs want it: the argument, and the first line of what is wrong with it.
fn usage_fault(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    let fault = Fault::new(FaultKind::Invalid, first.trim_start_matches("error: "));
    match error.get(ContextKind::InvalidArg) {
        Some(argument) => fault.field(argument.to_string()).into(),
        None => fault.into(),
    }
}

fn dispatch(verb: Verb, global: Global, whole: Command) -> Outcome {
    if let Verb::Completions(args) = &verb {
        completions(args, whole).map_err(|error| write_failure(&error))?;
        return Ok(0);
    }
    let endpoint = endpoint(global.agent)?;
    let format = format(global.output)?;
    match net::run(net::Config::default(), on_loop(verb, endpoint, format)) {
        Ok(outcome) => outcome,
        Err(error) => Err(loop_failure(&error)),
    }
}

fn loop_failure(error: &io::Error) -> Failure {
    Fault::from_error(FaultKind::Failed, error).into()
}

async fn on_loop(verb: Verb, endpoint: Endpoint, format: Format) -> Outcome {
    if let Verb::Version(_) = verb {
        return version::version(&endpoint, format).await;
    }
    let agent = Agent::connect(&endpoint).await?;
    match verb {
        Verb::Run(args) => run::run(&agent, format, *args).await,
        Verb::Exec(args) => exec::exec(&agent, args).await,
        Verb::Attach(args) => attach::attach(&agent, args).await,
        Verb::Logs(args) => logs::logs(&agent, args).await,
        Verb::Ps(args) => ps::ps(&agent, format, args).await,
        Verb::Stats(args) => stats::stats(&agent, format, args).await,
        Verb::Top(args) => top::top(&agent, &args).await,
        Verb::Events(args) => events::events(&agent, format, args).await,
        Verb::Inspect(args) => inspect::inspect(&agent, format, args).await,
        Verb::Update(args) => update::update(&agent, format, *args).await,
        Verb::Kill(args) => kill::kill(&agent, args).await,
        Verb::Wait(args) => wait::wait(&agent, format, args).await,
        Verb::Net(args) => network::net(&agent, format, args).await,
        Verb::Gc(args) => gc::gc(&agent, format, args).await,
        Verb::Drain(args) => drain::drain(&agent, format, args).await,
        // Handled before, without an agent.
        Verb::Version(_) | Verb::Completions(_) => Ok(0),
    }
}

/// The flag, else the variable, else this host's default instance.
fn endpoint(flag: Option<String>) -> Result<Endpoint, Fault> {
    match flag {
        Some(text) => text.parse().map_err(|error: EndpointError| {
            Fault::invalid("--agent", error.to_string())
                .remedy(format!("for example: --agent {}", Endpoint::default()))
        }),
        None => Endpoint::from_env(),
    }
}

pub(crate) fn format(flag: Option<Format>) -> Result<Format, Fault> {
    match (flag, std::env::var(OUTPUT_VARIABLE)) {
        (Some(format), _) => Ok(format),
        (None, Ok(text)) if !text.is_empty() => Format::from_str(&text, true)
            .map_err(|_| Fault::invalid(OUTPUT_VARIABLE, format!("{text:?} is neither table nor json"))),
        (None, _) => Ok(Format::Table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_quoted_back() {
        let wrong = |word: &str| {
            let place = |text: &str| {
                text.parse::<coordination::Place>()
                    .map_err(|error| error.to_string())
            };
            let command = Command::new("master").arg(clap::Arg::new("zk").long("zk").value_parser(place));
            let mut error = command.try_get_matches_from(["master", word]).unwrap_err();
            hide_passwords(&mut error);
            (error.render().to_string(), usage_fault(&error).line_of("master"))
        };
        for word in [
            "--zk=zk://ann:secret@h1",
            "--zk=ann:secret@h1/m",
            "--zk=http://ann:secret@h1/m",
            "zk://ann:secret@h1:2181/m",
        ] {
            let (text, line) = wrong(word);
            assert!(!text.contains("secret") && !line.contains("secret"), "{text}");
            assert!(text.contains("ann:...@h1"), "{text}");
        }
    }
}
