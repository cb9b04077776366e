//! The link between replicas, against peers that err.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite, Cursor};
use replog::frames::{Greeted, LinkEnd, PREFACE, frame, greet, receive_each, send};
use replog_core::{Envelope, Incarnation, Member, Message, Position, ReplicaId};

fn fetch(first: u64) -> Envelope {
    Envelope {
        from: Member {
            replica: ReplicaId(1),
            incarnation: Incarnation(7),
        },
        to: ReplicaId(2),
        incarnation: None,
        message: Message::Fetch {
            first: Position(first),
        },
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// What arrived before the end, and the end.
fn receive(bytes: impl AsyncRead + Unpin + 'static) -> (Vec<Envelope>, LinkEnd) {
    net::run(net::Config::default(), async {
        let mut arrived = Vec::new();
        let end = receive_each(bytes, |envelope| {
            arrived.push(envelope);
            true
        })
        .await;
        (arrived, end)
    })
    .unwrap()
}

/// So many bytes at a time, and a turn of the loop between them.
struct Slow {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    now: bool,
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        self.now = !self.now;
        if self.now {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(self.piece).min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Poll::Ready(Ok(count))
    }
}

#[test]
fn a_slow_peer_is_understood_like_a_quick_one() {
    let sent: Vec<Envelope> = (1..40).map(fetch).collect();
    let bytes: Vec<u8> = sent.chunks(7).flat_map(frame).collect();
    for piece in [1, 3, 8, 100, 1 << 20] {
        let slow = Slow {
            bytes: bytes.clone(),
            at: 0,
            piece,
            now: false,
        };
        let (arrived, end) = receive(slow);
        assert_eq!(arrived, sent, "{piece} bytes at a time");
        assert!(matches!(end, LinkEnd::Closed));
    }
}

#[test]
fn a_frame_that_ends_early_gives_nothing_of_itself() {
    let (whole, cut) = (frame(&[fetch(1)]), frame(&[fetch(2), fetch(3)]));
    for length in 0..cut.len() {
        let (arrived, end) = receive(Cursor::new([&whole[..], &cut[..length]].concat()));
        assert_eq!(arrived, [fetch(1)], "{length} bytes of the second frame");
        assert!(matches!(end, LinkEnd::Closed));
    }
}

#[test]
fn garbage_ends_the_link_and_no_more() {
    let good = frame(&[fetch(1)]);
    let garbage: [(&str, Vec<u8>); 4] = [
        ("a thousand million segments", vec![0xff; 64]),
        ("a frame of 16 GiB", words(&[0, 1 << 31])),
        // A struct behind the only word.
        ("a pointer to nowhere", words(&[0, 1, 0x7fff_fffc, 1])),
        ("text", b"GET / HTTP/1.1\r\nHost: replica\r\n\r\n".repeat(50)),
    ];
    for (name, bytes) in garbage {
        let (arrived, end) = receive(Cursor::new([&good[..], &bytes[..]].concat()));
        assert_eq!(arrived, [fetch(1)], "{name}");
        assert!(!matches!(end, LinkEnd::Stopped), "{name}: {end}");
    }
    // Each single bit: links carry no checksum of their own, so it may as well be another message. But no panic.
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (arrived, _) = receive(Cursor::new(bytes));
        assert!(arrived.len() <= good.len() / 8, "{} out of one", arrived.len());
    }
}

#[test]
fn nothing_is_set_aside_for_what_is_only_announced() {
    // A frame of 100 MiB begins, and the peer goes away: what is held is bounded by what has arrived.
    let table = words(&[0, (100 << 20) / 8]);
    let (arrived, end) = receive(Cursor::new(table));
    assert!(arrived.is_empty());
    assert!(matches!(end, LinkEnd::Closed));
}

#[test]
fn a_caller_is_told_from_a_replica_by_its_first_bytes() {
    net::run(net::Config::default(), async {
        let link = greet(Cursor::new([&PREFACE[..], b"rest"].concat())).await;
        assert!(matches!(link, Ok(Greeted::Replica(_))));
        let Ok(Greeted::Caller(mut caller)) = greet(Cursor::new(b"bulkpeex and more".to_vec())).await else {
            panic!("a caller");
        };
        let mut all = Vec::new();
        futures::io::AsyncReadExt::read_to_end(&mut caller, &mut all)
            .await
            .unwrap();
        assert_eq!(all, b"bulkpeex and more");
        let short = greet(Cursor::new(b"bulk".to_vec())).await;
        assert!(matches!(short, Err(LinkEnd::Closed)));
    })
    .unwrap();
}

/// Takes a little and no more.
struct Stuck {
    room: usize,
    taken: Rc<RefCell<usize>>,
    gone: Option<Duration>,
    sleep: Option<Pin<Box<net::Sleep>>>,
}

impl AsyncRead for Stuck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let Some(after) = self.gone else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(net::sleep(after)));
        sleep.as_mut().poll(cx).map(|()| Ok(0))
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let count = bytes.len().min(self.room);
        self.room -= count;
        *self.taken.borrow_mut() += count;
        if count == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(count))
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_peer_that_takes_nothing_holds_up_only_its_own_queue() {
    net::run(net::Config::default(), async {
        let (queue, mut waiting) = net::queue::bounded(16);
        let taken = Rc::new(RefCell::new(0));
        let stuck = Stuck {
            room: 100,
            taken: Rc::clone(&taken),
            gone: None,
            sleep: None,
        };
        let kept = Cell::new(0);
        let fill = async {
            for first in 0..1000 {
                kept.set(kept.get() + u32::from(queue.try_push(fetch(first)).is_ok()));
                net::yield_now().await;
            }
        };
        let sending = send(stuck, &mut waiting);
        futures::pin_mut!(sending, fill);
        let ended = futures::future::select(sending, fill).await;
        assert!(
            matches!(ended, futures::future::Either::Right(_)),
            "it waits for the peer"
        );
        assert_eq!(*taken.borrow(), 100);
        // What was taken up for the frame that is stuck, and the queue.
        assert!(kept.get() < 16 + 256 + 1, "{} of 1000", kept.get());
    })
    .unwrap();
}

#[test]
fn a_peer_that_has_gone_is_noticed_before_a_message_is_lost_on_it() {
    net::run(net::Config::default(), async {
        let (queue, mut waiting) = net::queue::bounded(16);
        let leaving = Stuck {
            room: 1 << 20,
            taken: Rc::default(),
            gone: Some(Duration::from_millis(5)),
            sleep: None,
        };
        assert!(matches!(send(leaving, &mut waiting).await, Err(LinkEnd::Closed)));
        queue.try_push(fetch(1)).unwrap();
        assert_eq!(waiting.len(), 1, "for the next link");
    })
    .unwrap();
}
