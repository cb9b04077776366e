//! Numbers and times as people read them. JSON never goes through here.

use model::Bytes;

/// What stands for a figure that this host does not tell.
pub const UNKNOWN: &str = "-";

/// Limits at or above this are the kernel's way to say "none" (v1 writes 2^63 less a page).
pub const NO_LIMIT: u64 = 1 << 60;

/// `12.3%`; whole numbers from a hundred on.
pub fn percent(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}%")
    } else {
        format!("{value:.1}%")
    }
}

pub fn bytes(value: u64) -> String {
    Bytes(value).to_string()
}

/// A count in at most five characters: `512`, `12.3k`, `4.5M`.
pub fn count(value: u64) -> String {
    match value {
        0..=9999 => value.to_string(),
        10_000..=999_949 => format!("{:.1}k", value as f64 / 1e3),
        _ => format!("{:.1}M", value as f64 / 1e6),
    }
}

/// One coarse unit: `350ms`, `12s`, `5m`, `3h`, `12d`.
pub fn age(ms: u64) -> String {
    const SECOND: u64 = 1000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match ms {
        0..SECOND => format!("{ms}ms"),
        SECOND..MINUTE => format!("{}s", ms / SECOND),
        MINUTE..HOUR => format!("{}m", ms / MINUTE),
        HOUR..DAY => format!("{}h", ms / HOUR),
        _ => format!("{}d", ms / DAY),
    }
}

/// UTC in RFC 3339 with milliseconds: sortable, and the same on every machine.
pub fn timestamp(epoch_ms: u64) -> String {
    let (days, in_day_ms) = (epoch_ms / 86_400_000, epoch_ms % 86_400_000);
    let (year, month, day) = civil_date(days);
    let seconds = in_day_ms / 1000;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        in_day_ms % 1000
    )
}

/// Days since 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so that
/// the leap day is the last of its year and a month's length follows from a straight line.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let since_march_0000 = days + 719_468;
    let era = since_march_0000 / DAYS_OF_400_YEARS;
    let day_of_era = since_march_0000 % DAYS_OF_400_YEARS;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A command as one line, with what a shell would need quoted in quotes.
pub fn command_line(words: &[String]) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        let plain = |c: char| c.is_alphanumeric() || "-_=+./:,@%^~".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            line.push_str(word);
        } else {
            // Control characters of a hostile command must not reach the terminal.
            let shown: String = word.chars().flat_map(printable).collect();
            line.push('\'');
            line.push_str(&shown.replace('\'', "'\\''"));
            line.push('\'');
        }
    }
    line
}

fn printable(c: char) -> Vec<char> {
    if c.is_control() {
        c.escape_default().collect()
    } else {
        vec![c]
    }
}

/// Free text for one line of a terminal.
pub fn one_line(text: &str) -> String {
    text.chars().flat_map(printable).collect()
}

/// At most `width` characters, the last one `…` when something was cut off.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

/// At most `width` characters, the middle left out: names that differ only at their ends stay apart.
pub fn cut_middle(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width || width < 3 {
        return cut(text, width);
    }
    let (head, tail) = ((width - 1) / 2, width / 2);
    let shown = text.chars().take(head).chain(['…']);
    shown.chain(text.chars().skip(count - tail)).collect()
}

/// Share of the last ten seconds in which something waited, for each resource that the kernel tells.
pub fn pressure(usage: &model::Usage) -> Option<String> {
    let all = [
        ("cpu", usage.cpu_pressure),
        ("mem", usage.mem_pressure),
        ("io", usage.io_pressure),
    ];
    let told: Vec<String> = all
        .iter()
        .filter_map(|(name, pressure)| Some(format!("{name} {:.0}%", (*pressure)?.some.avg10_percent)))
        .collect();
    (!told.is_empty()).then(|| told.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(
            (percent(0.04), percent(12.34), percent(250.4)),
            ("0.0%".into(), "12.3%".into(), "250%".into())
        );
        assert_eq!(
            (count(9999), count(12_345), count(4_500_000)),
            ("9999".into(), "12.3k".into(), "4.5M".into())
        );
        for (ms, text) in [
            (350, "350ms"),
            (59_999, "59s"),
            (60_000, "1m"),
            (7_200_000, "2h"),
            (90_000_000, "1d"),
        ] {
            assert_eq!(age(ms), text);
        }
    }

    #[test]
    fn dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(1_795_248_154_123), "2026-11-21T08:02:34.123Z");
        assert_eq!(timestamp(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(timestamp(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn commands_are_one_safe_line() {
        let words = ["sh", "-c", "echo 'a b'\x1b[2J\n", ""].map(str::to_owned);
        assert_eq!(command_line(&words), r"sh -c 'echo '\''a b'\''\u{1b}[2J\n' ''");
    }

    #[test]
    fn cutting_marks_the_loss() {
        assert_eq!(cut_middle("web-server-with-a-long-name-12", 13), "web-se…ame-12");
        assert_eq!(cut_middle("abcdefgh", 4), "a…gh");
        assert_eq!(
            (cut_middle("abc", 3), cut_middle("abcd", 2)),
            ("abc".into(), "a…".into())
        );
        assert_eq!(
            (cut("abc", 3), cut("abcd", 3), cut("abcd", 0)),
            ("abc".into(), "ab…".into(), String::new())
        );
    }
}
