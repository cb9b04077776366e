//! `bulkhead completions`: shell completions on stdout.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead completions bash > /etc/bash_completion.d/bulkhead
  bulkhead completions zsh > \"${fpath[1]}/_bulkhead\"
  bulkhead completions fish > ~/.config/fish/completions/bulkhead.fish")]
pub(crate) struct CompletionsArgs {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// `command` is the whole program, the daemons' verbs included.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "bulkhead", &mut script);
    io::stdout().write_all(&script)
}
