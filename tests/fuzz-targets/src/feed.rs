//! A connection whose peer is a list of bytes.
//!
//! Contract: the bytes come in pieces, then a few wake-ups without any, so that what they began can go on, then end of
//! file; what is written is taken, with a pause now and then. Panics that are caught on the way are remembered
//! ([`contained`]).

use std::cell::Cell;
use std::io;
use std::panic::PanicHookInfo;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};

/// Turns without bytes before the end of file.
const QUIET_TURNS: u32 = 8;

/// One peer's bytes.
pub struct Feed {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    quiet: u32,
    writes: u32,
    /// Told when the connection is dropped.
    gone: Option<futures::channel::oneshot::Sender<()>>,
}

impl Feed {
    /// The first byte says how large the pieces are.
    pub fn new(data: &[u8]) -> Self {
        let (piece, bytes) = crate::choice(data);
        Self {
            bytes: bytes.to_vec(),
            at: 0,
            piece: match piece {
                0..=3 => usize::MAX,
                4..=7 => usize::from(piece),
                _ => usize::from(piece) * 8,
            },
            quiet: QUIET_TURNS,
            writes: 0,
            gone: None,
        }
    }

    /// A receiver that is told when the server has let go of the connection.
    pub fn on_drop(&mut self) -> futures::channel::oneshot::Receiver<()> {
        let (sender, receiver) = futures::channel::oneshot::channel();
        self.gone = Some(sender);
        receiver
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(gone) = self.gone.take() {
            let _ = gone.send(());
        }
    }
}

impl AsyncRead for Feed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            if self.quiet == 0 {
                return Poll::Ready(Ok(0));
            }
            self.quiet -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = rest.len().min(self.piece).min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Feed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.writes += 1;
        if self.writes.is_multiple_of(4) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// A panic in the RPC library ends its connection and no more, which is ours to guarantee and its authors' to mend. A
/// panic anywhere else is a finding, also when it was caught.
fn is_foreign(info: &PanicHookInfo<'_>) -> bool {
    info.location().is_some_and(|place| {
        let file = place.file();
        file.contains("/capnp-rpc-") || file.contains("/capnp-0.")
    })
}

/// From now on panics are told apart. Under libFuzzer, whose own hook ends the process, foreign ones do not reach it.
pub fn watch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_foreign(info) {
                CONTAINED.set(true);
                earlier(info);
            }
        }));
    });
    CONTAINED.set(false);
}

/// Whether a panic that is a finding was caught since [`watch_panics`].
pub fn contained() -> bool {
    CONTAINED.get()
}
