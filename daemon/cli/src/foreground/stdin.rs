//! Our stdin to the command: a thread reads, the loop sends, at most a few pieces wait in between.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;

use client::Input;
use model::FaultKind;
use net::Pool;
use net::queue::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// One read. As much as a pipe of Linux gives at once, pipe(7).
const PIECE_BYTES: usize = 64 << 10;
/// Pieces read ahead: one is sent while the next is read.
const PIECES_AHEAD: usize = 2;

/// How the sending came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StdinEnd {
    /// Everything was sent, or the command does not want more.
    Finished,
    /// The detach keys were pressed.
    Detached,
}

/// Reads stdin until its end. An error is an end too: what else could the command be told?
pub(super) async fn read(pool: Pool, pieces: Sender<Vec<u8>>) {
    while let Ok(Ok(piece)) = pool.run(read_piece).await {
        if piece.is_empty() || pieces.push(piece).await.is_err() {
            return;
        }
    }
}

fn read_piece() -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let mut stdin = io::stdin().lock();
        match stdin.read(&mut piece) {
            Ok(length) => {
                piece.truncate(length);
                return Ok(piece);
            }
            // Whoever shares the open file with us may have set O_NONBLOCK on it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut wait = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
                poll(&mut wait, PollTimeout::NONE)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn pieces() -> (Sender<Vec<u8>>, Receiver<Vec<u8>>) {
    bounded(PIECES_AHEAD)
}

/// Sends what is read. `inputs` brings the command's stdin, and a new one after an agent restart.
pub(super) async fn send(
    mut pieces: Receiver<Vec<u8>>,
    mut inputs: Receiver<Input>,
    mut keys: Option<DetachKeys>,
) -> StdinEnd {
    let Some(mut input) = inputs.pop().await else {
        return StdinEnd::Finished;
    };
    while let Some(mut piece) = pieces.pop().await {
        let detach_at = keys.as_mut().and_then(|keys| keys.find(&piece));
        if let Some(length) = detach_at {
            piece.truncate(length);
        }
        while let Err(fault) = input.write(&piece).await {
            if fault.kind != FaultKind::Unavailable {
                return StdinEnd::Finished;
            }
            match inputs.pop().await {
                Some(again) => input = again,
                None => return StdinEnd::Finished,
            }
        }
        if detach_at.is_some() {
            return StdinEnd::Detached;
        }
    }
    // Fails when the command has ended or closed its stdin: nothing left to tell it.
    let _ = input.close().await;
    StdinEnd::Finished
}

/// Ctrl-P Ctrl-Q. Ctrl-P is passed on at once, so that a shell's history key works as ever; only
/// Ctrl-Q after it is kept back.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    begun: bool,
}

impl DetachKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// How many bytes of the piece come before the keys were complete.
    fn find(&mut self, piece: &[u8]) -> Option<usize> {
        for (index, &byte) in piece.iter().enumerate() {
            if self.begun && byte == Self::SECOND {
                return Some(index);
            }
            self.begun = byte == Self::FIRST;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_pieces() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.find(b"ab\x10"), None);
        assert_eq!(keys.find(b"\x11rest"), Some(0));
        let mut keys = DetachKeys::default();
        assert_eq!(keys.find(b"\x11\x10x\x11"), None);
        assert_eq!(keys.find(b"a\x10\x10\x11"), Some(3));
    }
}
