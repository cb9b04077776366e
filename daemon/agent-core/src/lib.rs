//! The agent, deciding only: a state machine over containers.
//!
//! The drive contract, for the shell that acts and for the simulation that pretends to:
//!
//! ```text
//! core.handle(now, input);                    // one input …
//! while let Some(wish) = core.poll() { … }    // … then drain every wish …
//! wait_until(core.deadline());                // … then wait; at the deadline: Input::Tick
//! ```
//!
//! No clock, file, socket, thread or randomness: `clippy.toml` beside this crate makes it law.

mod adopt;
mod agent;
mod collecting;
mod container;
mod draining;
mod ending;
mod ids;
mod input;
mod launching;
mod ports;
mod settings;
mod tasks;

pub use agent::AgentCore;
pub use collecting::{COLLECTED_MAX, Which};
pub use container::Ending;
pub use input::{Adopted, Answer, CleanupOutcome, EndReport, Input, Now, Remembered, Ticket, Wish};
pub use ports::PortPool;
pub use settings::Settings;
pub use tasks::{TaskBook, TaskEvent, TaskWish};
