//! What a client types, on its way to the command.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use model::{Fault, FaultKind};

use crate::changed::Changed;

/// The writing end of a command's stdin: a pipe, or the master of its terminal. Clients share it.
pub struct Stdin {
    end: RefCell<Option<Rc<net::Source<File>>>>,
    terminal: bool,
    /// Clients that hold it; a pipe is closed with the last one.
    holders: Cell<usize>,
    /// Writes in the order of their calls, the one at work in front: calls of a stream run concurrently.
    writers: RefCell<VecDeque<u64>>,
    writes: Cell<u64>,
    moved: Changed,
}

/// A place among the writers, left however the write ends.
struct Turn<'a>(&'a Stdin, u64);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.writers.borrow_mut().retain(|n| *n != self.1);
        self.0.moved.notify();
    }
}

impl Stdin {
    pub fn pipe(end: OwnedFd) -> io::Result<Rc<Self>> {
        kernel::socket::set_nonblocking(end.as_fd())?;
        let end = net::Source::new(File::from(end), net::Interest::Writable)?;
        Ok(Self::new(Rc::new(end), false))
    }

    pub fn terminal(master: Rc<net::Source<File>>) -> Rc<Self> {
        Self::new(master, true)
    }

    fn new(end: Rc<net::Source<File>>, terminal: bool) -> Rc<Self> {
        Rc::new(Self {
            end: RefCell::new(Some(end)),
            terminal,
            holders: Cell::new(0),
            writers: RefCell::default(),
            writes: Cell::new(0),
            moved: Changed::default(),
        })
    }

    /// Writes all of it, as fast as the command reads.
    pub async fn write(&self, mut data: &[u8]) -> Result<(), Fault> {
        let _turn = self.turn().await;
        let closed = || Fault::new(FaultKind::State, "the command's stdin is closed");
        while !data.is_empty() {
            let Some(end) = self.end.borrow().clone() else { return Err(closed()) };
            let written = end.write_with(|mut end| end.write(data)).await;
            match written {
                Ok(count) => data = &data[count..],
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(closed()),
                Err(error) => return Err(Fault::failed(format!("write to the command's stdin: {error}"))),
            }
        }
        Ok(())
    }

    /// As [`Self::close`], after every write that was asked for before.
    pub async fn close_in_turn(&self) {
        let _turn = self.turn().await;
        self.close();
    }

    async fn turn(&self) -> Turn<'_> {
        let number = self.writes.get();
        self.writes.set(number + 1);
        self.writers.borrow_mut().push_back(number);
        let turn = Turn(self, number);
        loop {
            let moved = self.moved.notified();
            if self.writers.borrow().front() == Some(&number) {
                return turn;
            }
            moved.await;
        }
    }

    /// The command reads end of file. A terminal can not be closed: there the person types it.
    pub fn close(&self) {
        if !self.terminal {
            self.end.borrow_mut().take();
        }
    }

    pub fn hold(self: &Rc<Self>) -> StdinHold {
        self.holders.set(self.holders.get() + 1);
        StdinHold(self.clone())
    }
}

/// One client's share.
pub struct StdinHold(Rc<Stdin>);

impl StdinHold {
    pub fn stdin(&self) -> &Rc<Stdin> {
        &self.0
    }
}

impl Drop for StdinHold {
    fn drop(&mut self) {
        let left = self.0.holders.get() - 1;
        self.0.holders.set(left);
        if left == 0 {
            self.0.close();
        }
    }
}
