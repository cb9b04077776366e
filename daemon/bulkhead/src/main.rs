//! The program `bulkhead`: parses the command line and hands over to the verb.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let mut command = cli::accept_underscores(
        cli::command()
            .subcommand(agent::command().display_order(0))
            .subcommand(replog::tool::command().subcommand(registrar::tool::command())),
    );
    match command.try_get_matches_from_mut(&args) {
        Ok(matches) => match matches.subcommand() {
            Some(("agent", flags)) => agent::main(flags),
            Some(("log", flags)) => match flags.subcommand() {
                // The log itself does not know what is in it.
                Some(("registry", flags)) => registrar::tool::main(flags),
                _ => replog::tool::main(flags),
            },
            _ => cli::main(&matches, command),
        },
        Err(error) => cli::usage_error(&error, &args),
    }
}
