//! Our stdin to the command: a thread reads, the loop sends, at most a few pieces wait in between.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::Duration;

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
    while let Some(piece) = next_piece(&mut pieces, &mut keys).await {
        let (piece, detached) = match &mut keys {
            Some(keys) => keys.filter(piece),
            None => (piece, false),
        };
        while let Err(fault) = input.write(&piece).await {
            if fault.kind != FaultKind::Unavailable {
                return StdinEnd::Finished;
            }
            match inputs.pop().await {
                Some(again) => input = again,
                None => return StdinEnd::Finished,
            }
        }
        if detached {
            return StdinEnd::Detached;
        }
    }
    // Fails when the command has ended or closed its stdin: nothing left to tell it.
    let _ = input.close().await;
    StdinEnd::Finished
}

/// What was read, or the first of the detach keys when the second one does not follow.
async fn next_piece(pieces: &mut Receiver<Vec<u8>>, keys: &mut Option<DetachKeys>) -> Option<Vec<u8>> {
    match keys {
        Some(keys) if keys.held => match net::timeout(HELD_MAX, pieces.pop()).await {
            Ok(Some(piece)) => Some(piece),
            Ok(None) | Err(net::Elapsed) => {
                keys.held = false;
                keys.passed = true;
                Some(vec![DetachKeys::FIRST])
            }
        },
        _ => pieces.pop().await,
    }
}

/// Both detach keys are pressed within this time. Longer, and a shell's history key (Ctrl-P) would lag.
const HELD_MAX: Duration = Duration::from_millis(400);

/// Ctrl-P Ctrl-Q. The first is held back until the second could have followed: passed on at once it would
/// stay behind in the input of the one who attaches next.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    held: bool,
    /// What comes next is the key that was held back, and is not to be held again.
    passed: bool,
}

impl DetachKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// What is to be passed on of a piece, and whether the keys were complete; what follows them is dropped.
    fn filter(&mut self, piece: Vec<u8>) -> (Vec<u8>, bool) {
        if std::mem::take(&mut self.passed) {
            return (piece, false);
        }
        let mut passed = Vec::with_capacity(piece.len() + 1);
        for byte in piece {
            match (std::mem::take(&mut self.held), byte) {
                (true, Self::SECOND) => return (passed, true),
                (was_held, Self::FIRST) => {
                    passed.extend(was_held.then_some(Self::FIRST));
                    self.held = true;
                }
                (was_held, other) => {
                    passed.extend(was_held.then_some(Self::FIRST));
                    passed.push(other);
                }
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_pieces_and_not_passed_on() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ab\x10".to_vec()), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest".to_vec()), (Vec::new(), true));
    }

    #[test]
    fn other_keys_all_arrive_in_order() {
        let mut keys = DetachKeys::default();
        assert_eq!(
            keys.filter(b"\x11\x10x\x11".to_vec()),
            (b"\x11\x10x\x11".to_vec(), false)
        );
        assert_eq!(
            keys.filter(b"a\x10\x10b".to_vec()),
            (b"a\x10\x10b".to_vec(), false)
        );
        assert_eq!(keys.filter(b"a\x10\x10\x11".to_vec()), (b"a\x10".to_vec(), true));
    }

    #[test]
    fn a_first_key_without_the_second_arrives_late() {
        let alone = net::run(net::Config::default(), async {
            let (sender, mut pieces) = pieces();
            let mut keys = Some(DetachKeys {
                held: true,
                passed: false,
            });
            let piece = next_piece(&mut pieces, &mut keys).await;
            drop(sender);
            (piece.clone(), keys.unwrap().filter(piece.unwrap()))
        });
        assert_eq!(alone.unwrap(), (Some(vec![0x10]), (vec![0x10], false)));
    }
}
