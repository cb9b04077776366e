//! Everything that touches a socket or a clock.
//!
//! Contract: one thread calls [`run`]; inside it, any number of local tasks made by [`spawn`] share one mio event loop.
//! Nothing here decides anything: it moves bytes, measures time and says what happened. Several threads may each run
//! their own loop; a task, stream or timer belongs to the loop of the thread that made it and never crosses over.
//! What crosses threads: [`std::task::Waker`]s, [`queue`] ends, and the results of [`Pool`] jobs.
//!
//! A panic in a task ends that task only ([`Task`] yields [`Panicked`], and it is logged). A panic of the root future is
//! fatal and leaves [`run`]. The program has to be built with `panic = "unwind"`.

mod certificate;
mod chance;
pub mod clock;
mod executor;
mod host;
pub mod http;
pub mod limit;
mod memory;
pub mod metrics;
mod prefixed;
pub mod queue;
mod reactor;
mod refusals;
pub mod rpc;
pub mod scram;
mod signals;
mod source;
mod tcp;
mod timer;
mod tls;
mod turn;
mod unix;
mod worker;

pub use chance::random;
pub use clock::{now, wall_ms};
pub use executor::{Panicked, Task, TaskSet, spawn};
pub use host::{host_name, raise_descriptors, resolve};
pub use limit::{
    ConnectionCounters, ConnectionGuard, ConnectionHandle, ConnectionLimit, Listener, accept_loop,
};
pub use prefixed::Prefixed;
pub use queue::Notify;
pub use reactor::{Config, Statistics, run, statistics, yield_now};
pub use refusals::Refusals;
pub use signals::{ExitInfo, ReceivedSignal, Signal, Signals, block_signals, wait_pidfd};
pub use source::{Interest, Source};
pub use tcp::{TcpListener, TcpStream};
pub use timer::{Elapsed, Sleep, sleep, sleep_until, timeout};
pub use tls::{Link, PeerCertificate, Secured, Tls, TlsError, TlsFiles};
pub use unix::{BindError, Peer, UnixListener, UnixStream};
pub use worker::{Pool, PoolError};

use futures::AsyncReadExt as _;
use futures::io::{AsyncRead, AsyncWrite, BufReader, BufWriter, ReadHalf, WriteHalf};

/// Splits a stream into buffered halves. Unbuffered use costs a system call for each small read or write.
pub fn buffered<S: AsyncRead + AsyncWrite>(stream: S) -> (BufReader<ReadHalf<S>>, BufWriter<WriteHalf<S>>) {
    let (read, write) = stream.split();
    (BufReader::new(read), BufWriter::new(write))
}
