//! `bulkhead gc`: remove what finished containers left.

use api::client_json;
use clap::Args;
use client::{Agent, Collect};
use model::{Millis, Removed};

use crate::args::Format;
use crate::failure::Outcome;
use crate::human::{self, UNKNOWN};
use crate::output::{print, print_json, print_table, short_id};
use crate::table::{Align, Table};

/// Remove what finished containers left: sandboxes, output, records
///
/// The agent does so by itself when they get too old or the disk too full (--gc-delay,
/// --gc-disk-headroom of the agent). Without arguments this does the same at once. What
/// runs is never touched. Exit status 1 when something could not be removed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead gc --all --dry-run                 # what there is, and how much it takes
  bulkhead gc --older-than 1h
  bulkhead gc web 0123456789ab
  bulkhead gc --all -o json | jq 'map(.bytes) | add'")]
pub(crate) struct GcArgs {
    /// Only tell what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Everything that ended longer ago than this
    #[arg(long, value_name = "TIME", conflicts_with_all = ["all", "containers"])]
    older_than: Option<Millis>,
    /// Everything that has ended
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const COLUMNS: [(&str, Align); 7] = [
    ("CONTAINER", Align::Left),
    ("NAME", Align::Left),
    ("AGE", Align::Right),
    ("BYTES", Align::Right),
    ("FILES", Align::Right),
    ("DIRECTORIES", Align::Right),
    ("STATE", Align::Left),
];

pub(crate) async fn gc(agent: &Agent, format: Format, args: GcArgs) -> Outcome {
    let which = match (&args.older_than, args.all) {
        _ if !args.containers.is_empty() => Collect::Named(args.containers.clone()),
        (Some(age), _) => Collect::OlderThan(*age),
        (None, true) => Collect::OlderThan(Millis(0)),
        (None, false) => Collect::Due,
    };
    let mut all: Vec<Removed> = Vec::new();
    loop {
        let some = agent.collect(&which, args.dry_run).await?;
        // An agent answers with some thousands at a time; what stays is in every answer.
        let done = args.dry_run || some.iter().all(|entry| entry.trouble.is_some()) || some.len() < PART;
        all.retain(|old| !some.iter().any(|new| new.id == old.id));
        all.extend(some);
        if done {
            break;
        }
    }
    let stuck = all.iter().filter(|entry| entry.trouble.is_some()).count();
    match format {
        Format::Json => print_json(&all.iter().map(client_json::Removed::from).collect::<Vec<_>>())?,
        Format::Table => {
            if !all.is_empty() {
                print_table(&table(&all, args.dry_run))?;
            }
            print(&summary(&all, args.dry_run))?;
        }
    }
    Ok(u8::from(stuck > 0 && !args.dry_run))
}

/// Below this an answer was the last.
const PART: usize = 4096;

fn table(entries: &[Removed], dry_run: bool) -> Table {
    let mut table = Table::new(&COLUMNS);
    for entry in entries {
        table.row([
            short_id(entry.id.as_str()).to_owned(),
            entry
                .name
                .as_ref()
                .map_or_else(|| UNKNOWN.to_owned(), ToString::to_string),
            human::age(entry.age.get()),
            human::bytes(entry.bytes),
            human::count(entry.files),
            human::count(entry.directories),
            match (&entry.trouble, dry_run) {
                (Some(trouble), _) => human::one_line(trouble),
                (None, true) => "would be removed".to_owned(),
                (None, false) => "removed".to_owned(),
            },
        ]);
    }
    table
}

fn summary(entries: &[Removed], dry_run: bool) -> String {
    let gone = entries.iter().filter(|entry| entry.trouble.is_none());
    let (mut containers, mut bytes, mut directories) = (0u64, 0u64, 0u64);
    for entry in gone {
        containers += 1;
        bytes = bytes.saturating_add(entry.bytes);
        directories = directories.saturating_add(entry.directories);
    }
    let would = if dry_run { "would free" } else { "freed" };
    let stuck = entries.len() as u64 - containers;
    let rest = match stuck {
        0 => String::new(),
        _ => format!("; {stuck} could not be removed and will be tried again"),
    };
    format!(
        "{would} {} (containers: {containers}, directories: {directories}){rest}\n",
        human::bytes(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_leaves_out_what_stays() {
        let entry = |id: &str, bytes, trouble: Option<&str>| Removed {
            bytes,
            directories: 2,
            age: Millis::secs(90),
            trouble: trouble.map(str::to_owned),
            ..Removed::of(id.parse().unwrap())
        };
        let entries = [
            entry("0123456789abcdef", 1 << 20, None),
            entry("b", 5, Some("is\nmounted")),
        ];
        assert_eq!(
            summary(&entries, false),
            "freed 1MB (containers: 1, directories: 2); 1 could not be removed and will be tried again\n"
        );
        assert_eq!(
            table(&entries, true).render(None),
            "CONTAINER     NAME  AGE  BYTES  FILES  DIRECTORIES  STATE\n\
             0123456789ab  -      1m    1MB      0            2  would be removed\n\
             b             -      1m     5B      0            2  is\\nmounted\n"
        );
    }
}
