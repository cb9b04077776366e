//! The command's output to our own stdout and stderr. Writing happens on a thread: a slow reader
//! holds up the command, as it would a local one, and never our signals.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

use client::{Output, STDERR};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use model::{Fault, FaultKind};
use net::{Notify, Pool};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::losses::Losses;

pub(crate) struct Console {
    pool: Pool,
    closed: Notify,
    stdout: Stream,
    stderr: Stream,
    losses: Losses,
}

/// A descriptor of our own: unbuffered, unlike the standard library's.
struct Stream {
    name: &'static str,
    /// Taken away when nobody reads it any more.
    file: Option<File>,
}

impl Console {
    /// `closed` is set when the reader of our stdout has gone; `losses` counts what never came.
    pub fn new(pool: Pool, closed: Notify, losses: Losses) -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Self {
            pool,
            closed,
            stdout: Stream {
                name: "stdout",
                file: Some(stdout),
            },
            stderr: Stream {
                name: "stderr",
                file: Some(stderr),
            },
            losses,
        })
    }

    async fn pass_on(&mut self, number: u8, data: Vec<u8>) -> Result<(), Fault> {
        let stream = if number == STDERR {
            &mut self.stderr
        } else {
            &mut self.stdout
        };
        let Some(mut file) = stream.file.take() else {
            return Ok(());
        };
        let written = self
            .pool
            .run(move || write_all(&mut file, &data).map(|()| file))
            .await;
        match written {
            Ok(Ok(file)) => stream.file = Some(file),
            Ok(Err(error)) if error.kind() == ErrorKind::BrokenPipe => {
                if number != STDERR {
                    self.closed.set();
                }
            }
            Ok(Err(error)) => return Err(Fault::failed(format!("write to {}: {error}", stream.name))),
            Err(error) => return Err(Fault::from_error(FaultKind::Failed, &error)),
        }
        Ok(())
    }
}

fn write_all(file: &mut File, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match file.write(data) {
            Ok(length) => data = &data[length..],
            // Whoever shares the open file with us may have set O_NONBLOCK on it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut wait = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                poll(&mut wait, PollTimeout::NONE)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Output for Console {
    fn write<'a>(&'a mut self, stream: u8, data: &'a [u8]) -> LocalBoxFuture<'a, Result<(), Fault>> {
        self.pass_on(stream, data.to_vec()).boxed_local()
    }

    fn gap(&mut self, _: u8, bytes: u64) -> LocalBoxFuture<'_, Result<(), Fault>> {
        match self.losses.note(bytes, net::now()) {
            Some(line) => self.pass_on(STDERR, (line + "\n").into_bytes()).boxed_local(),
            None => futures::future::ready(Ok(())).boxed_local(),
        }
    }

    fn done(&mut self) -> LocalBoxFuture<'_, Result<(), Fault>> {
        futures::future::ready(Ok(())).boxed_local()
    }
}
