//! The program `bulkhead`: parses the command line and hands over to the verb.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let mut command = cli::accept_underscores(
        cli::command()
            .subcommand(agent::command().display_order(0))
            .subcommand(master::command().display_order(0))
            .subcommand(cli::cluster::dev::command())
            .subcommand(cli::cluster::tls::command())
            .subcommands(cli::cluster::commands())
            .subcommand(replog::tool::command().subcommand(registrar::tool::command())),
    );
    match command.try_get_matches_from_mut(&args) {
        Ok(matches) => match matches.subcommand() {
            Some(("agent", flags)) => agent::main(flags),
            Some(("master", flags)) => master::main(flags),
            Some(("dev", flags)) => cli::cluster::dev::main(flags),
            Some(("tls", flags)) => cli::cluster::tls::main(flags),
            Some((verb, _)) if cli::cluster::is_verb(verb) => cli::cluster::main(&matches),
            Some(("log", flags)) => match flags.subcommand() {
                // The log itself does not know what is in it.
                Some(("registry", flags)) => registrar::tool::main(flags),
                _ => replog::tool::main(flags),
            },
            _ => cli::main(&matches, command),
        },
        Err(error) => cli::usage_error(error, &args),
    }
}
