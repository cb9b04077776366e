//! What a daemon asks of its own process and host.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::queue::oneshot;

/// uname(2)'s node name.
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Raises the soft limit of open files to the hard one; returns it.
pub fn raise_descriptors() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The first address of a host. getaddrinfo(3) blocks, for seconds if a name server is down: not on the loop.
pub async fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((address, port).into());
    }
    let (sender, receiver) = oneshot();
    let host = host.to_owned();
    std::thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(|mut all| all.next());
            // Nobody waits any more after the deadline.
            let _ = sender.send(found);
        })?;
    match receiver.await {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Err(error)) => Err(error),
        Ok(Ok(None)) | Err(_) => Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the name has no address",
        )),
    }
}
