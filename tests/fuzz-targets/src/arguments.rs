//! The words of a command line.
//!
//! Rules: what is taken prints as something that is taken again with the same meaning; a value is within the bounds
//! that its error names.

use cli::parse::{self, Variable};
use model::{PortRanges, PortRequest};

pub fn run(data: &[u8]) {
    let (kind, rest) = crate::choice(data);
    let Some(text) = crate::text(rest) else { return };
    match kind % 10 {
        0 => volume(text),
        1 => rlimit(text),
        2 => io_limit(text),
        3 => variables(text),
        4 => label(text),
        5 => device(text),
        6 => signal(text),
        7 => {
            ports(text);
            port_ranges(text);
        }
        8 => {
            if let Ok(time) = parse::timeout(text) {
                assert!(time.get() > 0);
            }
        }
        _ => command_line(text),
    }
}

fn volume(text: &str) {
    let Ok(volume) = parse::volume(text) else { return };
    assert!(volume.target.is_absolute());
    let mode = if volume.read_only { "ro" } else { "rw" };
    let printed = format!("{}:{}:{mode}", volume.source.display(), volume.target.display());
    assert_eq!(parse::volume(&printed), Ok(volume));
}

fn rlimit(text: &str) {
    let Ok(limit) = parse::rlimit(text) else { return };
    if let Some(hard) = limit.hard {
        assert!(limit.soft.is_some_and(|soft| soft <= hard));
    }
    let print = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
    let printed = format!("{}={}:{}", limit.name, print(limit.soft), print(limit.hard));
    // A name that begins with the prefix twice loses one each time; no resource is called so.
    if !limit.name.is_empty() && !limit.name.starts_with("rlimit_") {
        assert_eq!(parse::rlimit(&printed), Ok(limit), "{printed:?}");
    }
}

fn io_limit(text: &str) {
    let Ok(limit) = parse::io_limit(text) else { return };
    let keys: Vec<String> = [
        ("read_bps", limit.read_bps.map(|value| format!("{value}B"))),
        ("write_bps", limit.write_bps.map(|value| format!("{value}B"))),
        ("read_iops", limit.read_iops.map(|value| value.to_string())),
        ("write_iops", limit.write_iops.map(|value| value.to_string())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some(format!("{key}={}", value?)))
    .collect();
    assert!(!keys.is_empty());
    let again = parse::io_limit(&format!("{}:{}", limit.device, keys.join(",")));
    let again = again.expect("a limit that was taken is taken again");
    assert_eq!(again.device, limit.device);
    assert_eq!(
        (again.read_iops, again.write_iops),
        (limit.read_iops, limit.write_iops)
    );
    // Sizes go through a float: exact up to 2^53.
    let exact = |value: Option<u64>| value.is_none_or(|value| value < 1 << 53);
    if exact(limit.read_bps) && exact(limit.write_bps) {
        assert_eq!(again, limit);
    }
}

fn variables(text: &str) {
    if let Ok(Variable::Set(name, value)) = parse::variable(text) {
        assert_eq!(format!("{name}={value}"), text);
    }
    match parse::env_file(text) {
        Ok(variables) => assert!(variables.len() <= text.lines().count()),
        Err((line, _)) => assert!((1..=text.lines().count()).contains(&line)),
    }
}

fn label(text: &str) {
    if let Ok((key, value)) = parse::label(text) {
        assert!(!key.is_empty());
        assert_eq!(parse::label(&format!("{key}={value}")), Ok((key, value)));
    }
}

fn device(text: &str) {
    let Ok(rule) = parse::device(text) else { return };
    assert!(rule.path.is_absolute() && (rule.read || rule.write || rule.mknod));
    let letters = [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')];
    let access: String = letters
        .iter()
        .filter(|(given, _)| *given)
        .map(|(_, letter)| letter)
        .collect();
    assert_eq!(
        parse::device(&format!("{}:{access}", rule.path.display())),
        Ok(rule)
    );
}

fn signal(text: &str) {
    let Ok(number) = parse::signal(text) else { return };
    assert!((1..=64).contains(&number));
    assert_eq!(parse::signal(&number.to_string()), Ok(number));
    let name = parse::signal_name(number);
    if !name.contains(' ') {
        assert_eq!(parse::signal(&name), Ok(number));
    }
}

fn ports(text: &str) {
    let Ok(taken) = text.parse::<PortRequest>() else {
        return;
    };
    assert_eq!(taken.to_string().parse(), Ok(taken));
}

fn port_ranges(text: &str) {
    let Ok(ranges) = text.parse::<PortRanges>() else {
        return;
    };
    assert!(
        ranges
            .ranges()
            .iter()
            .all(|range| 0 < range.first() && range.first() <= range.last())
    );
    assert_eq!(ranges.to_string().parse(), Ok(ranges));
}

/// A whole line, one argument a line.
fn command_line(text: &str) {
    let words = std::iter::once("bulkhead").chain(text.lines().take(16));
    let _ = cli::accept_underscores(cli::command()).try_get_matches_from(words);
}
