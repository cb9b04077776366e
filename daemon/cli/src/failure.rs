//! How a verb fails, and what a person and a script see of it: one line on stderr, one exit status.

use model::{Fault, FaultKind};
use serde::Serialize;

use crate::args::Format;
use crate::output::complain;

/// A request failed.
pub(crate) const STATUS_FAILED: u8 = 1;
/// The command line was wrong.
pub(crate) const STATUS_USAGE: u8 = 2;
/// `run` and `exec`: Bulkhead failed, not the command. The numbers are those of env(1) and of shells.
pub(crate) const STATUS_BULKHEAD: u8 = 125;
const STATUS_NOT_EXECUTABLE: u8 = 126;
const STATUS_NOT_FOUND: u8 = 127;

/// Why a verb ends without having done its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// `what` is the thing that it was about: a container, a file.
    Fault { what: Option<String>, fault: Fault },
    /// Nobody reads our stdout any more (`| head`): there is nothing to tell and nobody to tell it.
    OutputClosed,
    /// All is said; only the status is left.
    Status(u8),
    /// One each of the things that a verb was about.
    Several(Vec<Failure>),
}

/// A failure for programs, with what it is about.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    failure: api::client_json::Failure,
    about: Option<&'a str>,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault { what: None, fault }
    }
}

/// Adds what a fault is about.
pub(crate) trait About<T> {
    fn about(self, what: &str) -> Result<T, Failure>;
}

impl<T> About<T> for Result<T, Fault> {
    fn about(self, what: &str) -> Result<T, Failure> {
        self.map_err(|fault| Failure::Fault {
            what: Some(what.to_owned()),
            fault,
        })
    }
}

/// What a verb returns: its exit status.
pub(crate) type Outcome = Result<u8, Failure>;

impl Failure {
    /// Says on stderr what went wrong: a line for each thing, text or JSON. Every verb fails through here.
    pub fn tell(&self, verb: &str, format: Format) {
        if let Self::Several(failures) = self {
            return failures.iter().for_each(|failure| failure.tell(verb, format));
        }
        let line = match format {
            Format::Json => self.json_line(verb),
            Format::Table => self.line(verb),
        };
        if let Some(line) = line {
            complain(&line);
        }
    }

    /// The one line, without the line feed.
    fn line(&self, verb: &str) -> Option<String> {
        let Self::Fault { what, fault } = self else {
            return None;
        };
        let what = what.as_ref().map(|what| format!("{what}: ")).unwrap_or_default();
        Some(crate::human::one_line(&format!(
            "bulkhead: {verb}: {what}{fault}"
        )))
    }

    #[cfg(test)]
    pub fn line_of(&self, verb: &str) -> String {
        self.line(verb).unwrap_or_default()
    }

    /// The same for programs.
    fn json_line(&self, verb: &str) -> Option<String> {
        let Self::Fault { what, fault } = self else {
            return None;
        };
        let told = Told {
            failure: fault.into(),
            about: what.as_deref(),
        };
        let text = serde_json::to_string(&told).ok();
        text.map(crate::output::plain_json).or_else(|| self.line(verb))
    }

    pub fn status(&self, verb: &str) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Status(status) => *status,
            Self::Several(failures) => failures.first().map_or(0, |failure| failure.status(verb)),
            Self::Fault { fault, .. } if runs_a_command(verb) => match fault.kind {
                FaultKind::CommandNotFound => STATUS_NOT_FOUND,
                FaultKind::CommandNotExecutable => STATUS_NOT_EXECUTABLE,
                _ => STATUS_BULKHEAD,
            },
            Self::Fault { .. } => STATUS_FAILED,
        }
    }
}

/// The verbs whose exit status is that of a command.
pub(crate) fn runs_a_command(verb: &str) -> bool {
    matches!(verb, "run" | "exec" | "attach")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_verb_what_why_and_remedy() {
        let fault =
            Fault::new(FaultKind::NotFound, "no such container").remedy("list them with: bulkhead ps -a");
        let failure = Err::<(), _>(fault).about("web").unwrap_err();
        assert_eq!(
            failure.line("kill").as_deref(),
            Some("bulkhead: kill: web: no such container; list them with: bulkhead ps -a")
        );
        assert_eq!((failure.status("kill"), failure.status("exec")), (1, 125));
        let json: serde_json::Value =
            serde_json::from_str(&failure.json_line("kill").unwrap_or_default()).unwrap();
        assert_eq!(
            (&json["about"], &json["kind"]),
            (&"web".into(), &"not_found".into())
        );
        assert_eq!(Failure::Several(vec![failure]).status("kill"), 1);
        let nasty = Failure::from(Fault::failed("a\nb\x1b[2J"));
        assert_eq!(nasty.line("ps").as_deref(), Some("bulkhead: ps: a\\nb\\u{1b}[2J"));
    }

    #[test]
    fn statuses_are_those_of_a_shell() {
        let of = |kind| Failure::from(Fault::new(kind, "x")).status("run");
        assert_eq!(of(FaultKind::CommandNotFound), 127);
        assert_eq!(of(FaultKind::CommandNotExecutable), 126);
        assert_eq!(of(FaultKind::Unavailable), 125);
        assert_eq!(
            (
                Failure::OutputClosed.status("ps"),
                Failure::Status(7).status("ps")
            ),
            (0, 7)
        );
    }
}
