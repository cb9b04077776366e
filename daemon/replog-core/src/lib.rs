//! The replicated log, deciding only: one replica with its acceptor, learner, coordinator, recovery and membership.
//!
//! The protocol, its states and why it is safe: `docs/replicated-log.md`. The drive contract, for the shell that acts and
//! for the simulation that pretends to:
//!
//! ```text
//! node.handle(now, input);                    // one input …
//! while let Some(wish) = node.poll() { … }    // … then fulfil every wish, in order …
//! wait_until(node.deadline());                // … then wait; at the deadline: Input::Tick
//! ```
//!
//! Nothing leaves a replica before what it says is durable: the core holds such messages back until
//! [`Input::Persisted`] names the token of the records they rest on. Records are written in the order in which they are
//! wished; a crash may lose any end of those not yet reported durable, and nothing in front of it. Many wishes may share
//! one flush: `Persisted` with a token covers every earlier one.
//!
//! No clock, file, socket, thread or randomness: `clippy.toml` beside this crate makes it law.

mod append;
mod candidate;
mod catchup;
mod change;
mod coordinator;
mod election;
mod input;
mod membership;
mod message;
mod node;
mod outbox;
mod planted;
mod position;
mod record;
mod recovery;
mod replica;
mod settings;
mod state;
mod value;

pub use input::{Answer, Change, Halt, Input, NotElected, Notice, Refusal, StartError, Ticket, Wish};
pub use membership::{Incarnation, LogId, MEMBERS_MAX, Member, Membership, Proposal, ReplicaId};
pub use message::{Envelope, Fetched, Hello, Message, Prepare, Promise, Write, Written};
pub use node::{Node, Start};
pub use outbox::Token;
pub use planted::PlantedBug;
pub use position::{Ballot, Epoch, Position};
pub use record::{Record, Status};
pub use settings::{Bounds, Settings, Timing};
pub use state::State;
pub use value::Value;
