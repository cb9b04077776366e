//! What a client types, on its way to the command.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use model::{Fault, FaultKind};

use crate::changed::Changed;
use crate::turns::Turns;

/// The writing end of a command's stdin: a pipe, or the master of its terminal. Clients share it. It exists before
/// the command does, so that a client that goes away during the launch is noticed.
#[derive(Default)]
pub struct Stdin {
    end: RefCell<End>,
    /// Clients that hold it; a pipe is closed with the last one.
    holders: Cell<usize>,
    /// Calls of a stream run concurrently; their bytes must not.
    writers: Turns,
    opened: Changed,
}

#[derive(Default)]
enum End {
    #[default]
    NotYet,
    Pipe(Rc<net::Source<File>>),
    Terminal(Rc<net::Source<File>>),
    Closed,
}

impl Stdin {
    /// Takes over the pipe; if it was closed before there was one, the command reads end of file.
    pub fn open_pipe(&self, end: OwnedFd) -> io::Result<()> {
        if matches!(*self.end.borrow(), End::NotYet) {
            kernel::socket::set_nonblocking(end.as_fd())?;
            let end = net::Source::new(File::from(end), net::Interest::Writable)?;
            *self.end.borrow_mut() = End::Pipe(Rc::new(end));
        }
        self.opened.notify();
        Ok(())
    }

    pub fn open_terminal(&self, master: Rc<net::Source<File>>) {
        *self.end.borrow_mut() = End::Terminal(master);
        self.opened.notify();
    }

    /// Writes all of it, as fast as the command reads.
    pub async fn write(&self, mut data: &[u8]) -> Result<(), Fault> {
        let _turn = self.writers.next().await;
        let closed = || Fault::new(FaultKind::State, "the command's stdin is closed");
        while !data.is_empty() {
            let Some(end) = self.end().await else {
                return Err(closed());
            };
            let written = end.write_with(|mut end| end.write(data)).await;
            match written {
                Ok(count) => data = &data[count..],
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(closed()),
                Err(error) => return Err(Fault::failed(format!("write to the command's stdin: {error}"))),
            }
        }
        Ok(())
    }

    async fn end(&self) -> Option<Rc<net::Source<File>>> {
        loop {
            let opened = self.opened.notified();
            match &*self.end.borrow() {
                End::Pipe(end) | End::Terminal(end) => return Some(end.clone()),
                End::Closed => return None,
                End::NotYet => {}
            }
            opened.await;
        }
    }

    /// As [`Self::close`], after every write that was asked for before.
    pub async fn close_in_turn(&self) {
        let _turn = self.writers.next().await;
        self.close();
    }

    /// The command reads end of file. A terminal can not be closed: there the person types it.
    pub fn close(&self) {
        let mut end = self.end.borrow_mut();
        if !matches!(*end, End::Terminal(_)) {
            *end = End::Closed;
        }
        drop(end);
        self.opened.notify();
    }

    /// The command is over: nothing is held open any more.
    pub fn end_for_good(&self) {
        *self.end.borrow_mut() = End::Closed;
        self.opened.notify();
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
