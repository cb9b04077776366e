//! A person, a tool or a master at one agent.
//!
//! Contract: an [`Agent`] lives on the thread of one `net` loop ([`block_on`] makes one); every answer is
//! a `model` value and every refusal a [`model::Fault`]. Short calls have a deadline
//! ([`agent::CALL_DEADLINE`]); [`Container::wait`], [`Agent::drain`], output and subscriptions go on until they
//! end or the connection does. When the agent goes away in the middle of a call, the call fails with
//! `Unavailable`; [`Reconnect`] goes on by id with the agent's successor.
//!
//! Dropping the last of the handles made from a connection closes it. That ends what was attached and
//! subscribed, and no container.

pub mod agent;
mod connection;
pub mod container;
pub mod endpoint;
mod error;
mod inbox;
mod input;
pub mod master;
mod output;
mod reconnect;
mod resumable;

pub use agent::{Agent, Collect, Launched, Waiting};
pub use container::{Attached, Container, Execution, Inspection, LogOptions, Process};
pub use endpoint::{Credentials, Endpoint, EndpointError};
pub use inbox::{Events, Samples};
pub use input::Input;
pub use master::Master;
pub use output::{Output, OutputEnd, OutputEnded, Progress, STDERR, STDOUT};
pub use reconnect::Reconnect;
pub use resumable::Resumable;

use std::future::Future;

use model::{Fault, FaultKind};

/// Runs a future on a loop of its own on this thread, for programs that have none.
pub fn block_on<T>(future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match net::run(net::Config::default(), future) {
        Ok(result) => result,
        Err(error) => Err(Fault::from_error(FaultKind::Failed, &error)),
    }
}
