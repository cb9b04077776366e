//! One contestant's client: a process that is told how many writers and for how long, and says what came of it.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::time::{Duration, Instant};

pub const ENTRY_BYTES: usize = 1024;

/// Lines `WRITERS MILLISECONDS`; each is answered with entries, microseconds taken, and of one entry in nanoseconds the
/// median, p99 and the longest. `measure` gives what each entry took.
pub fn obey(
    mut measure: impl FnMut(usize, Duration) -> Result<Vec<u64>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    say("0")?;
    for line in std::io::stdin().lock().lines() {
        let (writers, time) = parse(&line?)?;
        let began = Instant::now();
        let took = measure(writers, time)?;
        say(&summary(took, began.elapsed()))?;
    }
    Ok(())
}

pub fn parse(line: &str) -> Result<(usize, Duration), Box<dyn Error>> {
    let (writers, ms) = line.split_once(' ').ok_or("WRITERS MILLISECONDS")?;
    Ok((writers.parse()?, Duration::from_millis(ms.parse()?)))
}

pub fn summary(mut took: Vec<u64>, elapsed: Duration) -> String {
    took.sort_unstable();
    let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1)));
    let [median, p99, longest] = [50, 99, 100].map(|part| at(part).copied().unwrap_or_default());
    format!("{} {} {median} {p99} {longest}", took.len(), elapsed.as_micros())
}

pub fn say(line: &str) -> std::io::Result<()> {
    println!("{line}");
    std::io::stdout().flush()
}
