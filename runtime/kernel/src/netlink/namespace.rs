//! Network namespaces, made and visited by threads of their own: the calling thread never leaves its namespace, so an
//! error on the way can't leave it in the wrong one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use crate::namespace::{self, NamespaceFlags};

/// A new, empty one. It lives as long as this descriptor, its processes or an interface's peer need it.
pub fn create() -> io::Result<OwnedFd> {
    on_a_thread(|| {
        namespace::unshare(NamespaceFlags::NET)?;
        Ok(namespace::own_network()?)
    })
}

/// Runs `work` in the network namespace `target`. Sockets that it opens stay there.
pub fn within<R: Send>(target: impl AsFd, work: impl FnOnce() -> R + Send) -> io::Result<R> {
    let target = target.as_fd();
    on_a_thread(move || {
        namespace::join(target, NamespaceFlags::NET)?;
        Ok(work())
    })
}

fn on_a_thread<R: Send>(work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)?;
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
