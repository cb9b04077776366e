//! Any descriptor that epoll takes, and the one place where an operation meets readiness.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::reactor::{self, IoState, Reactor, Readiness};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Sockets, pipes to read, pidfd, signalfd, eventfd, netlink. Writing works too; its readiness is asked for on demand.
    Readable,
    /// The write end of a pipe, a connecting socket.
    Writable,
    /// Kernel files that report a change as an exceptional condition (`cgroup.events`, `memory.events`, PSI triggers).
    Priority,
}

/// A descriptor registered with this thread's loop; it must be in non-blocking mode if it is read or written.
/// Several tasks may wait; all are woken. Dropping it deregisters, then closes.
pub struct Source<T: AsFd> {
    // Declared first, therefore dropped first: deregister before close.
    registration: Registration,
    inner: T,
}

struct Registration {
    reactor: Rc<Reactor>,
    state: Rc<IoState>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.reactor.deregister(&self.state);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

impl<T: AsFd> Source<T> {
    /// Registers a descriptor.
    ///
    /// # Errors
    /// What epoll says; `EPERM` for a regular file or directory, which is always ready.
    pub fn new(inner: T, interest: Interest) -> io::Result<Self> {
        let reactor = reactor::current();
        let base = match interest {
            Interest::Readable => Some(mio::Interest::READABLE),
            Interest::Writable => None,
            Interest::Priority => Some(mio::Interest::PRIORITY),
        };
        let state = reactor.register(inner.as_fd().as_raw_fd(), base)?;
        Ok(Self {
            registration: Registration { reactor, state },
            inner,
        })
    }

    /// For stream sockets: believed ready at once, so the first operation is tried without a turn of the loop.
    pub(crate) fn stream(inner: T, connected: bool) -> io::Result<Self> {
        let source = Self::new(inner, Interest::Readable)?;
        source.registration.state.readable.ready.set(connected);
        source.registration.state.writable.ready.set(connected);
        Ok(source)
    }

    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Deregisters and gives the descriptor back.
    pub fn into_inner(self) -> T {
        let Self { registration, inner } = self;
        drop(registration);
        inner
    }

    /// Waits until reading may succeed. Stays ready until [`Self::read_with`] meets `WouldBlock`.
    pub async fn readable(&self) {
        poll_fn(|cx| self.registration.state.readable.poll(cx)).await;
    }

    /// Forgets that reading may succeed, until the next event. For who reads elsewhere (on a worker): forget first, then
    /// let it read until `WouldBlock`; what arrives meanwhile makes the source readable again.
    pub fn forget_readable(&self) {
        self.registration.state.readable.ready.set(false);
    }

    /// Waits until writing may succeed.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx)).await
    }

    /// Waits for the next exceptional condition. Several that come before the caller looks are one; the file has to be
    /// read again (from offset 0) after each.
    pub async fn priority(&self) {
        let priority = &self.registration.state.priority;
        poll_fn(|cx| priority.poll(cx)).await;
        priority.ready.set(false);
    }

    /// Tries `operation` as often as the descriptor becomes readable, until it says something else than `WouldBlock`.
    pub async fn read_with<R>(&self, mut operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        poll_fn(|cx| self.poll_read_with(cx, &mut operation)).await
    }

    /// As [`Self::read_with`], for writing.
    pub async fn write_with<R>(&self, mut operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        poll_fn(|cx| self.poll_write_with(cx, &mut operation)).await
    }

    pub fn poll_read_with<R>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(cx, Direction::Read, operation)
    }

    pub fn poll_write_with<R>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(cx, Direction::Write, operation)
    }

    /// A read of a stream socket. A short read means that the kernel's buffer is empty: the next read need not be tried
    /// before the next event, which saves a failing system call for each message. Not so when the peer has closed, as
    /// then no further event will come.
    pub(crate) fn poll_read_stream(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
        operation: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let result = ready!(self.poll_with(cx, Direction::Read, operation));
        if let Ok(count) = &result
            && *count > 0
            && *count < wanted
            && !self.registration.state.read_closed.get()
        {
            self.registration.state.readable.ready.set(false);
        }
        Poll::Ready(result)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.registration.state.writable.ready.get() {
            return Poll::Ready(Ok(()));
        }
        self.registration.reactor.arm_write(&self.registration.state)?;
        self.registration.state.writable.poll(cx).map(Ok)
    }

    fn poll_with<R>(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let readiness: &Readiness = match direction {
            Direction::Read => &self.registration.state.readable,
            Direction::Write => &self.registration.state.writable,
        };
        loop {
            match direction {
                Direction::Read => ready!(readiness.poll(cx)),
                Direction::Write => ready!(self.poll_writable(cx))?,
            }
            ready!(self.registration.reactor.poll_allowance(cx));
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readiness.ready.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl<T: AsFd> AsFd for Source<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}
