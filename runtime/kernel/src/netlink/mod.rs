//! rtnetlink(7) with blocking requests: the kernel executes a request while it is sent and holds the rtnl lock for up to
//! tens of milliseconds, so this belongs to worker threads. A socket acts in the network namespace it was made in.

mod error;

pub use error::NetlinkError;
