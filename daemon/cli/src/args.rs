//! The command line: which verbs there are, the arguments that all share, and the two spellings of
//! every flag. What one verb takes stands in the verb's own file.

use clap::{Args, Command, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::{
    attach, completions, drain, events, exec, gc, inspect, kill, logs, network, ps, stats, top, update,
    version, wait,
};

use crate::run_args::RunArgs;

const ABOUT: &str = "Runs programs isolated from each other: limits, namespaces, supervision";

const AFTER_HELP: &str = "\
Examples:
  bulkhead agent &                                     start the agent of this host
  bulkhead run --mem 64MB --cpus 0.5 -- make -j4       in the foreground, as if it were local
  bulkhead run -d --name web -v /srv:/srv:ro -- httpd  in the background
  bulkhead logs -f web
  bulkhead top

Environment:
  BULKHEAD_AGENT   where the agent is: unix:/path or tcp:HOST:PORT
  BULKHEAD_OUTPUT  table or json

Flags may be written with underscores too: --cpu_limit is --cpu-limit.
Exit status: 0 fine, 1 the request failed, 2 usage. run and exec: that of the command (128+N when
signal N ended it), 125 when Bulkhead failed or the usage was wrong, 126 not executable, 127 not found.";

#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about = ABOUT, after_help = AFTER_HELP)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes, before or after its name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Global {
    /// Agent: unix:/path, tcp:HOST:PORT, HOST:PORT or /path [env: BULKHEAD_AGENT]
    #[arg(long, value_name = "ENDPOINT")]
    pub agent: Option<String>,
    /// Form of the answer: table or json [env: BULKHEAD_OUTPUT]
    #[arg(short, long, value_name = "FORM", value_enum, hide_possible_values = true)]
    pub output: Option<Format>,
}

impl Global {
    /// What is said here, and the other's word where nothing is.
    pub fn or(self, other: Global) -> Global {
        Global {
            agent: self.agent.or(other.agent),
            output: self.output.or(other.output),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // For people.
    Table,
    // For programs: stable keys, full precision. (Doc comments here would end up in the help.)
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(Box<RunArgs>),
    Exec(exec::ExecArgs),
    Attach(attach::AttachArgs),
    Logs(logs::LogsArgs),
    Ps(ps::PsArgs),
    Stats(stats::StatsArgs),
    Top(top::TopArgs),
    Events(events::EventsArgs),
    Inspect(inspect::InspectArgs),
    Update(Box<update::UpdateArgs>),
    Kill(kill::KillArgs),
    Wait(wait::WaitArgs),
    Net(network::NetArgs),
    Gc(gc::GcArgs),
    Drain(drain::DrainArgs),
    Version(version::VersionArgs),
    Completions(completions::CompletionsArgs),
}

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::Logs(_) => "logs",
            Self::Ps(_) => "ps",
            Self::Stats(_) => "stats",
            Self::Top(_) => "top",
            Self::Events(_) => "events",
            Self::Inspect(_) => "inspect",
            Self::Update(_) => "update",
            Self::Kill(_) => "kill",
            Self::Wait(_) => "wait",
            Self::Net(_) => "net",
            Self::Gc(_) => "gc",
            Self::Drain(_) => "drain",
            Self::Version(_) => "version",
            Self::Completions(_) => "completions",
        }
    }
}

/// The whole client: `bulkhead` with its verbs. The binary adds those of the daemons.
pub fn command() -> Command {
    let global: Vec<_> = Global::augment_args(Command::new("global"))
        .get_arguments()
        .cloned()
        .collect();
    // Not clap's own global arguments: those would reach into the daemons' verbs as well.
    Cli::command().mut_subcommands(|verb| compact_help(verb.args(&global)))
}

/// One form of help for `-h` and `--help`, a line per flag: what it does, usage, flags, examples. clap's
/// long form spreads over two lines and a blank one for each flag.
fn compact_help(verb: Command) -> Command {
    const TEMPLATE: &str =
        "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";
    let long = verb.get_long_about().map(ToString::to_string).unwrap_or_default();
    // Its first paragraph is the short form again.
    let verb = match long.split_once("\n\n") {
        Some((_, rest)) => verb.before_help(rest.trim_end().to_owned()),
        None => verb,
    };
    verb.long_about(None::<&str>).help_template(TEMPLATE)
}

/// Lets every long flag be written with underscores, as operators of Mesos do (`--work_dir`). Aliases
/// and not a rewriting of the arguments: the command of a container is never touched.
pub fn accept_underscores(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_long() {
            Some(long) if long.contains('-') => {
                let spelled = long.replace('-', "_");
                arg.alias(spelled)
            }
            _ => arg,
        })
        .mut_subcommands(accept_underscores)
}

/// The verb that a command line names, without parsing it: for the exit status of a usage error.
pub(crate) fn verb_of(args: &[std::ffi::OsString]) -> Option<&str> {
    let mut rest = args.iter().skip(1).map(|arg| arg.to_str().unwrap_or(""));
    while let Some(arg) = rest.next() {
        match arg {
            "--agent" | "--output" | "-o" => drop(rest.next()),
            _ if arg.starts_with('-') => {}
            _ => return Some(arg),
        }
    }
    None
}

/// The form that a command line asks for, without parsing it: for telling a usage error.
pub(crate) fn format_of(args: &[std::ffi::OsString]) -> Option<Format> {
    let mut found = None;
    let mut rest = args.iter().skip(1).map(|arg| arg.to_str().unwrap_or(""));
    while let Some(arg) = rest.next() {
        let value = match arg {
            // What follows is the command of a container.
            "--" => break,
            "-o" | "--output" => rest.next(),
            _ => arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o")),
        };
        let value = value.map(|text| text.trim_start_matches('='));
        found = value.and_then(|text| Format::from_str(text, true).ok()).or(found);
    }
    found
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn parse(line: &[&str]) -> Result<(Cli, Global), clap::Error> {
        let matches = accept_underscores(command()).try_get_matches_from([&["bulkhead"], line].concat())?;
        let inner = matches
            .subcommand()
            .map(|(_, m)| Global::from_arg_matches(m))
            .transpose()?;
        Ok((Cli::from_arg_matches(&matches)?, inner.unwrap_or_default()))
    }

    #[test]
    fn the_definition_is_sound() {
        accept_underscores(command()).debug_assert();
    }

    #[test]
    fn underscores_are_the_same_flag_but_only_before_the_command() {
        let (cli, _) = parse(&[
            "run",
            "--cpu_limit",
            "0.5",
            "--mem_soft=1MB",
            "--",
            "x",
            "--cpu_limit",
            "a_b",
        ])
        .unwrap();
        let Verb::Run(run) = cli.verb else { panic!() };
        assert!(run.limits.cpu_limit.is_some() && run.limits.mem_soft.is_some());
        assert_eq!(run.command, ["x", "--cpu_limit", "a_b"]);
        // Nor without the dashes: the first word that is no flag begins the command.
        let (cli, _) = parse(&["run", "x", "--cpu_limit"]).unwrap();
        let Verb::Run(run) = cli.verb else { panic!() };
        assert_eq!(run.command, ["x", "--cpu_limit"]);
    }

    #[test]
    fn common_options_stand_before_or_after_the_verb() {
        let (cli, inner) = parse(&["--agent", "/a", "ps", "-o", "json"]).unwrap();
        let both = inner.or(cli.global);
        assert_eq!(
            (both.agent.as_deref(), both.output),
            (Some("/a"), Some(Format::Json))
        );
        let (cli, inner) = parse(&["--agent", "/a", "ps", "--agent", "/b"]).unwrap();
        assert_eq!(inner.or(cli.global).agent.as_deref(), Some("/b"));
    }

    #[test]
    fn an_unknown_flag_is_answered_with_the_nearest() {
        let error = parse(&["run", "--cpu-limits", "1", "--", "x"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("--cpu-limit"), "{error}");
    }

    #[test]
    fn what_follows_the_first_word_belongs_to_the_command() {
        let (cli, _) = parse(&["exec", "-t", "web", "ls", "-l", "--", "--help"]).unwrap();
        let Verb::Exec(exec) = cli.verb else { panic!() };
        assert_eq!(exec.command, ["ls", "-l", "--", "--help"]);
        let (cli, _) = parse(&["exec", "web", "--", "ls", "-l"]).unwrap();
        let Verb::Exec(exec) = cli.verb else { panic!() };
        assert_eq!(exec.command, ["ls", "-l"]);
    }

    #[test]
    fn the_form_is_found_before_the_command() {
        let form = |line: &[&str]| {
            let args: Vec<std::ffi::OsString> = line.iter().map(Into::into).collect();
            format_of(&args)
        };
        for line in [
            ["-o", "json"],
            ["--output", "json"],
            ["x", "-ojson"],
            ["x", "--output=json"],
        ] {
            assert_eq!(form(&["bulkhead", line[0], line[1], "ps"]), Some(Format::Json));
        }
        assert_eq!(form(&["bulkhead", "run", "--", "x", "-o", "json"]), None);
        assert_eq!(form(&["bulkhead", "ps", "-o", "yaml"]), None);
    }

    #[test]
    fn the_verb_is_found_behind_common_options() {
        let verb = |line: &[&str]| {
            let args: Vec<std::ffi::OsString> = line.iter().map(Into::into).collect();
            verb_of(&args).map(str::to_owned)
        };
        assert_eq!(
            verb(&["bulkhead", "--agent", "run", "-o", "json", "exec", "--bad"]).as_deref(),
            Some("exec")
        );
        assert_eq!(verb(&["bulkhead", "--agent=x", "run"]).as_deref(), Some("run"));
        assert_eq!(verb(&["bulkhead", "--help"]), None);
    }
}
