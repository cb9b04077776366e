//! The client half of `bulkhead`: one file per verb.
//!
//! Contract: [`command`] describes the verbs, [`accept_underscores`] lets flags be spelled as Mesos'
//! operators do, [`main`] runs one and returns the exit status, [`usage_error`] tells a wrong command
//! line. Answers go to stdout, one line per error to stderr. Everything that talks to an agent runs
//! on one `net` loop; what may block (our stdin, stdout and terminal) runs on threads beside it.

mod args;
mod attach;
pub mod cluster;
mod completions;
mod drain;
mod events;
mod exec;
mod failure;
mod foreground;
mod gc;
mod human;
mod inspect;
mod kill;
mod limit_args;
mod logs;
mod network;
mod output;
pub mod parse;
mod ps;
mod rates;
mod run;
mod run_args;
mod stats;
mod table;
mod top;
mod update;
mod verbs;
mod version;
mod wait;

pub use args::{accept_underscores, command};
pub use verbs::{main, usage_error};
