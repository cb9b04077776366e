//! The master, deciding only: no clock, file, socket, thread or chance.
//!
//! ```text
//! core.handle(now, input);                    // one input …
//! while let Some(wish) = core.poll() { … }    // … then drain every wish …
//! wait_until(core.deadline());                // … then wait; at the deadline: Input::Tick
//! ```
//!
//! [`Master`] is one leadership: it begins with the registry as it was recovered, and nothing of it outlives its end.
//! What the registry has to know of an agent is in it before anybody hears of it.

mod admission;
mod agents;
mod counters;
mod input;
mod liveness;
mod maintenance;
mod master;
mod placement;
mod planted;
pub mod registrar;
pub mod registry;
mod resizing;
mod settings;
mod standing;
mod tasks;

pub use counters::Counters;
pub use input::{Input, Link, Now, Ticket, Wish};
pub use master::Master;
pub use planted::PlantedBug;
pub use registry::Refusal;
pub use settings::Settings;
