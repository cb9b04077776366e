//! What root tests share: an agent of their own, the command line against it, and the proof that the host is
//! as it was found.

mod agent;
mod eventually;
mod host;
pub mod network;
pub mod traces;
pub mod zookeeper;

pub use agent::{Agent, Answer, bulkhead};
pub use eventually::{eventually, patience, repetitions};
pub use host::HostSnapshot;

/// True when this test can't run here; says why, so that a skip is never mistaken for a pass.
pub fn skip_unless_root() -> bool {
    let root = kernel::host::require_root();
    if let Err(error) = &root {
        eprintln!("SKIPPED: {error}");
    }
    root.is_err()
}

/// True in the emulated machine of `scripts/vm`: a kernel that nobody else uses, whose global settings and disk a test
/// may change.
pub fn owns_the_machine() -> bool {
    std::env::var_os("BULKHEAD_TEST_MACHINE").is_some()
}

/// True where one v2 tree has all controllers.
pub fn is_pure_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
