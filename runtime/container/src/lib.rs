//! Containers from the process's side: the plan of a launch, the small process that clones, the init
//! that runs inside, and what they tell each other.
//!
//! ```text
//! agent ──seqpacket──> launcher (copy of this crate in a sealed memfd, one thread, no state)
//!   │                     │ clone3(CLONE_PARENT | CLONE_PIDFD | namespaces): no exec
//!   │ channel (stream)    ▼
//!   └──── plan, gate ──> init (pid 1 of the container, child of the agent) ──vfork──> command
//!          <── reports ──  │
//!                          └── wait status record into a file of the agent
//! ```
//! [`plan`] is pure: a `LaunchSpec` and facts about the host become a list of steps that can be
//! printed. [`init`] executes the steps and is dull. The launcher never sees a plan: what one
//! container is told cannot be found in the memory of another's init.

pub mod channel;
pub mod init;
pub mod launcher;
pub mod netpool;
pub mod output;
pub mod plan;
pub mod profile;
pub mod status;

mod request;

pub use request::{ChildFds, CloneKind, CloneReply, CloneRequest, Namespaces, receive_request};
