//! Network mode "mapped": containers with the host's address and ports of their own.
//!
//! [`Datapath`] makes a veth for each container, fills the maps that the programs of crate `bpf` steer by, and reads
//! their counters. All of it lives in the kernel: traffic goes on while no agent runs, and the next one takes it over
//! ([`Datapath::open`], [`Datapath::adopt`]). Calls block on netlink: they belong to worker threads. No clock, no task.

mod book;
mod datapath;
mod error;
mod explain;
mod health;
mod host_network;
mod host_programs;
mod inside;
mod recovery;
mod refresh;
mod request;
mod roots;
pub mod shaper;
mod shaper_plan;
mod shares;
mod shares_plan;
mod sharing;
mod stack;
mod usage;

pub use datapath::{Datapath, GROUP};
pub use error::NetworkError;
pub use health::Health;
pub use inside::InsideError;
pub use request::{
    Adopted, Attach, Attached, Config, Explanation, Known, KnownGroup, Origin, PacketQuestion, Transport,
    Verdict,
};
pub use shares_plan::{WEIGHT_OF_A_CPU, WEIGHTS};
