//! Texts of the command line to values: pure, each with the form it expects in its error.

use std::path::PathBuf;
use std::str::FromStr;

use model::{BitsPerSecond, Bytes, DeviceLimit, DeviceRule, Limit, Millis, Rlimit, Volume};
use nix::sys::signal::Signal;

/// Why an argument is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    #[error("{text:?} is not of the form {form}")]
    Form { text: String, form: &'static str },
    #[error("{name:?} is not a known key; known are {known}")]
    UnknownKey { name: String, known: &'static str },
    #[error("{text:?} is not a whole number")]
    Number { text: String },
    #[error("{text:?} is not a signal name or a number from 1 to {SIGNAL_MAX}")]
    Signal { text: String },
    #[error("soft limit {soft} is above the hard limit {hard}")]
    SoftAboveHard { soft: String, hard: String },
    #[error("{path:?} is not an absolute path")]
    NotAbsolute { path: String },
    #[error("must be more than 0; leave it out for no timeout")]
    NoTime,
    #[error(transparent)]
    Unit(#[from] model::units::UnitError),
}

fn form(text: &str, form: &'static str) -> ArgumentError {
    ArgumentError::Form {
        text: text.to_owned(),
        form,
    }
}

/// `SRC:DST[:ro|:rw]`. A relative source is taken from the current directory later, by the verb.
pub fn volume(text: &str) -> Result<Volume, ArgumentError> {
    const FORM: &str = "SRC:DST[:ro]";
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(form(text, FORM));
    };
    let read_only = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(form(text, FORM)),
    };
    if source.is_empty() || target.is_empty() {
        return Err(form(text, FORM));
    }
    if !target.starts_with('/') {
        return Err(ArgumentError::NotAbsolute {
            path: target.to_owned(),
        });
    }
    Ok(Volume {
        source: PathBuf::from(source),
        target: PathBuf::from(target),
        read_only,
    })
}

/// A time after which something is ended: at once is never meant.
pub fn timeout(text: &str) -> Result<Millis, ArgumentError> {
    match text.parse()? {
        Millis(0) => Err(ArgumentError::NoTime),
        time => Ok(time),
    }
}

/// `NAME=SOFT[:HARD]`: numbers, sizes (`1GB`) or `unlimited`. Without HARD both are the same.
pub fn rlimit(text: &str) -> Result<Rlimit, ArgumentError> {
    let (name, values) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| form(text, "NAME=SOFT[:HARD]"))?;
    let (soft_text, hard_text) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (rlimit_value(soft_text)?, rlimit_value(hard_text)?);
    if let Some(ceiling) = hard
        && soft.is_none_or(|soft| soft > ceiling)
    {
        return Err(ArgumentError::SoftAboveHard {
            soft: soft_text.to_owned(),
            hard: hard_text.to_owned(),
        });
    }
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("rlimit_").unwrap_or(&name).to_owned();
    Ok(Rlimit { name, soft, hard })
}

fn rlimit_value(text: &str) -> Result<Option<u64>, ArgumentError> {
    match text {
        "unlimited" | "infinity" | "max" | "-1" => Ok(None),
        // Plain digits are read exactly; a size goes through the usual units.
        _ if text.bytes().all(|b| b.is_ascii_digit()) => whole_number(text).map(Some),
        _ => Ok(Some(text.parse::<Bytes>()?.get())),
    }
}

fn whole_number(text: &str) -> Result<u64, ArgumentError> {
    text.parse().map_err(|_| ArgumentError::Number {
        text: text.to_owned(),
    })
}

/// `DEVICE:KEY=VALUE,…`; DEVICE is a path or `MAJOR:MINOR`. The kernel's own key names (`rbps`) work too.
pub fn io_limit(text: &str) -> Result<DeviceLimit, ArgumentError> {
    const FORM: &str = "DEVICE:read_bps=10MB,write_iops=100";
    let malformed = || form(text, FORM);
    let first_key_end = text.find('=').ok_or_else(malformed)?;
    // `8:0:read_bps=…`: the device ends at the last colon before the first key.
    let device_end = text[..first_key_end].rfind(':').ok_or_else(malformed)?;
    let (device, keys) = (&text[..device_end], &text[device_end + 1..]);
    if device.is_empty() {
        return Err(malformed());
    }
    let mut limit = DeviceLimit {
        device: device.to_owned(),
        ..DeviceLimit::default()
    };
    for pair in keys.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(malformed)?;
        let place = match key {
            "read_bps" | "rbps" => &mut limit.read_bps,
            "write_bps" | "wbps" => &mut limit.write_bps,
            "read_iops" | "riops" => &mut limit.read_iops,
            "write_iops" | "wiops" => &mut limit.write_iops,
            _ => {
                return Err(ArgumentError::UnknownKey {
                    name: key.to_owned(),
                    known: "read_bps, write_bps, read_iops, write_iops",
                });
            }
        };
        *place = Some(if key.ends_with("iops") {
            whole_number(value)?
        } else {
            value.parse::<Bytes>()?.get()
        });
    }
    Ok(limit)
}

/// One variable for the command: a value, or a name to be taken from our own environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    Set(String, String),
    Inherit(String),
}

impl Variable {
    /// The pair to send; `None` when it should be inherited and is not set here.
    pub fn resolve(self, own: impl Fn(&str) -> Option<String>) -> Option<(String, String)> {
        match self {
            Self::Set(name, value) => Some((name, value)),
            Self::Inherit(name) => own(&name).map(|value| (name, value)),
        }
    }
}

/// `NAME=VALUE`, or `NAME` to pass on one's own.
pub fn variable(text: &str) -> Result<Variable, ArgumentError> {
    const FORM: &str = "NAME=VALUE or NAME";
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() || name.contains(['\0', ' ', '\t']) {
        return Err(form(text, FORM));
    }
    Ok(match value {
        Some(value) => Variable::Set(name.to_owned(), value.to_owned()),
        None => Variable::Inherit(name.to_owned()),
    })
}

/// The lines of an `--env-file`: as [`variable`], with empty lines and `#` lines skipped. The error tells the line.
pub fn env_file(text: &str) -> Result<Vec<Variable>, (usize, ArgumentError)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_start()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| variable(line).map_err(|error| (number, error)))
        .collect()
}

/// `KEY=VALUE`, or `KEY` with an empty value.
pub fn label(text: &str) -> Result<(String, String), ArgumentError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(form(text, "KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `PATH[:rwm]`; without letters: read and write.
pub fn device(text: &str) -> Result<DeviceRule, ArgumentError> {
    const FORM: &str = "PATH[:rwm]";
    let (path, access) = match text.rsplit_once(':') {
        Some((path, access)) => (path, access),
        None => (text, "rw"),
    };
    if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(form(text, FORM));
    }
    if !path.starts_with('/') {
        return Err(ArgumentError::NotAbsolute {
            path: path.to_owned(),
        });
    }
    Ok(DeviceRule {
        path: PathBuf::from(path),
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    })
}

/// Highest signal number on Linux (`_NSIG`).
const SIGNAL_MAX: i32 = 64;

/// `TERM`, `SIGTERM`, `term` or `15`.
pub fn signal(text: &str) -> Result<i32, ArgumentError> {
    let unknown = || ArgumentError::Signal {
        text: text.to_owned(),
    };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=SIGNAL_MAX).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    Signal::from_str(&name)
        .map(|signal| signal as i32)
        .map_err(|_| unknown())
}

/// `SIGTERM` for 15; a number for what has no name.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| signal.as_str().to_owned(),
    )
}

/// A rate that lets something through: a ceiling of nothing would be no network at all.
pub fn rate(text: &str) -> Result<BitsPerSecond, ArgumentError> {
    let rate: BitsPerSecond = text.parse()?;
    match rate {
        BitsPerSecond(0) => Err(form(text, "a rate above 0, like 100Mbit")),
        rate => Ok(rate),
    }
}

pub fn ceiling(text: &str) -> Result<Limit<BitsPerSecond>, ArgumentError> {
    match text {
        "max" | "none" | "unlimited" => Ok(Limit::Max),
        text => rate(text).map(Limit::Value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let v = volume("/a/b:/c:ro").unwrap();
        assert_eq!(
            (v.source.to_str(), v.target.to_str(), v.read_only),
            (Some("/a/b"), Some("/c"), true)
        );
        assert!(!volume("./data:/data").unwrap().read_only);
        assert!(!volume("/a:/b:rw").unwrap().read_only);
        for bad in ["", "/a", ":/b", "/a:", "/a:b", "/a:/b:rx", "/a:/b:ro:ro"] {
            assert!(volume(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rlimits() {
        assert_eq!(
            rlimit("nofile=1024:4096").unwrap(),
            Rlimit {
                name: "nofile".into(),
                soft: Some(1024),
                hard: Some(4096)
            }
        );
        assert_eq!(
            rlimit("RLIMIT_CORE=0").unwrap(),
            Rlimit {
                name: "core".into(),
                soft: Some(0),
                hard: Some(0)
            }
        );
        assert_eq!(
            rlimit("as=1GB:unlimited").unwrap(),
            Rlimit {
                name: "as".into(),
                soft: Some(1 << 30),
                hard: None
            }
        );
        // Exact beyond the 53 bits of a float.
        assert_eq!(
            rlimit("fsize=18446744073709551614").unwrap().soft,
            Some(u64::MAX - 1)
        );
        for bad in [
            "nofile",
            "=1",
            "nofile=",
            "nofile=x",
            "nofile=2:1",
            "nofile=unlimited:5",
            "nofile=1:2:3",
        ] {
            assert!(rlimit(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn io_limits() {
        let limit = io_limit("/dev/vda:read_bps=10MB,write_iops=100").unwrap();
        assert_eq!(limit.device, "/dev/vda");
        assert_eq!((limit.read_bps, limit.write_iops), (Some(10 << 20), Some(100)));
        assert_eq!((limit.write_bps, limit.read_iops), (None, None));
        assert_eq!(io_limit("8:16:rbps=1KB,wbps=2KB").unwrap().device, "8:16");
        for bad in [
            "",
            "/dev/vda",
            "/dev/vda:",
            "read_bps=1",
            ":read_bps=1",
            "/dev/vda:x=1",
            "8:0:riops=1.5",
            "a:rbps=fast",
        ] {
            assert!(io_limit(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn variables() {
        assert_eq!(
            variable("A=b=c").unwrap(),
            Variable::Set("A".into(), "b=c".into())
        );
        assert_eq!(variable("A=").unwrap(), Variable::Set("A".into(), String::new()));
        assert_eq!(variable("A").unwrap(), Variable::Inherit("A".into()));
        assert!(variable("=x").is_err() && variable("").is_err() && variable("A B=1").is_err());
        let own = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        assert_eq!(
            variable("HOME").unwrap().resolve(own),
            Some(("HOME".into(), "/root".into()))
        );
        assert_eq!(variable("UNSET").unwrap().resolve(own), None);
    }

    #[test]
    fn env_files_name_the_bad_line() {
        let read = env_file("# comment\n\nA=1\n  B=two words\nC\n").unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read[1], Variable::Set("B".into(), "two words".into()));
        assert_eq!(env_file("A=1\n=2\n").unwrap_err().0, 2);
    }

    #[test]
    fn labels_and_devices() {
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
        assert!(label("=b").is_err());
        let rule = device("/dev/fuse:rm").unwrap();
        assert!(rule.read && !rule.write && rule.mknod);
        assert!(device("/dev/fuse").unwrap().write);
        assert!(device("/dev/fuse:x").is_err() && device("fuse").is_err() && device("/dev/fuse:").is_err());
    }

    #[test]
    fn signals_by_name_and_number() {
        for text in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(signal(text), Ok(15), "{text}");
        }
        assert_eq!(signal("40"), Ok(40));
        for bad in ["", "0", "65", "-9", "SIG", "FOO"] {
            assert!(signal(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            (signal_name(9).as_str(), signal_name(40).as_str()),
            ("SIGKILL", "signal 40")
        );
    }

    #[test]
    fn rates_let_something_through() {
        assert_eq!(ceiling("100Mbit"), Ok(Limit::Value(BitsPerSecond(100_000_000))));
        assert_eq!(ceiling("max"), Ok(Limit::Max));
        for bad in ["", "0bit", "0.1bit", "100", "-1Mbit", "10MB"] {
            assert!(ceiling(bad).is_err() && rate(bad).is_err(), "{bad:?}");
        }
    }
}
