//! rtnetlink(7) with blocking requests: the kernel executes a request while it is sent and holds the rtnl lock for up to
//! tens of milliseconds, so this belongs to worker threads. A socket acts in the network namespace it was made in.

mod address;
mod clsact;
pub mod diag;
mod error;
mod link;
pub mod namespace;
mod notice;
mod root;
mod route;
mod socket;
pub mod sysctl;
pub mod traffic;

pub use address::InterfaceAddress;
pub use error::NetlinkError;
pub use link::{Link, NewVeth};
pub use notice::Notices;
pub use root::RootDiscipline;
pub use route::Route;
pub use socket::RouteSocket;
