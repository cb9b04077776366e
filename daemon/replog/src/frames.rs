//! The link from one replica to another: bare frames, one way. A call for each message would cost an answer and a
//! farewell for each, and the writer of a busy log spends its time on these.
//!
//! ```text
//! "bulkpeer" · frame · frame · …      a frame is a Cap'n Proto message (stream framing) with a `Parcel` as its root
//! ```
//!
//! The receiver never says anything: its own messages go over its own link. The first eight bytes tell a link from a
//! caller: as the table of a Cap'n Proto message they would announce 1.8 thousand million segments, which is refused.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use futures::future::{Either, select};
use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use net::PeerCertificate;
use net::queue::Receiver as Queue;
use net::rpc::frame::{Assembler, FrameError, Limits, Message as Frame};
use replog_core::{Envelope, Message, ReplicaId, Value};
use wire::replog_capnp::parcel;

use crate::codec::{self, DecodeError};
use crate::replica::Replica;

/// What a link begins with.
pub const PREFACE: [u8; 8] = *b"bulkpeer";
const GREETING: Duration = Duration::from_secs(30);

/// Envelopes of one frame.
const TOGETHER: usize = 256;
/// Bytes of one frame, roughly: what is more waits for the next one.
const TOGETHER_BYTES: usize = 4 << 20;
/// The largest frame that is taken: a promise with its tail.
const FRAME_BYTES_MAX: usize = 128 << 20;
/// What is read at once, except the rest of a large frame.
const INPUT_BYTES: usize = 64 << 10;
/// What an envelope needs beside its values, and a value beside its bytes, in words; more is got when it is needed.
const ENVELOPE_WORDS: usize = 96;
const VALUE_WORDS: usize = 5;

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    #[error("closed by the other replica")]
    Closed,
    #[error("the stream failed: {0}")]
    Stream(#[from] io::Error),
    #[error("frame refused: {0}")]
    Frame(#[from] FrameError),
    #[error("frame refused: {0}")]
    Content(#[from] DecodeError),
    #[error("nothing was said within {} s", GREETING.as_secs())]
    Silent,
    #[error("this replica has stopped")]
    Stopped,
    #[error("it spoke as replica {0}, which its certificate is not of")]
    Impostor(ReplicaId),
    #[error("it spoke as replica {first} and as replica {then}")]
    TwoVoices { first: ReplicaId, then: ReplicaId },
}

/// Who it is that has connected.
pub enum Greeted<S> {
    Replica(S),
    Caller(Returned<S>),
}

/// Reads the first words.
pub async fn greet<S: AsyncRead + Unpin>(mut stream: S) -> Result<Greeted<S>, LinkEnd> {
    let mut first = [0; PREFACE.len()];
    match net::timeout(GREETING, stream.read_exact(&mut first)).await {
        Err(_) => return Err(LinkEnd::Silent),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(LinkEnd::Closed),
        Ok(read) => read?,
    }
    Ok(if first == PREFACE {
        Greeted::Replica(stream)
    } else {
        Greeted::Caller(Returned { first, at: 0, stream })
    })
}

/// Sends what is put into the queue until its other end is gone (`Ok`) or the link breaks.
pub async fn send<S>(stream: S, waiting: &mut Queue<Envelope>) -> Result<(), LinkEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut input, mut output) = stream.split();
    output.write_all(&PREFACE).await?;
    let mut nothing = [0; 1];
    loop {
        let first = {
            // The other side says nothing but that it has gone; without looking, the next message would be lost on it.
            let gone = input.read(&mut nothing);
            let next = poll_fn(|cx| waiting.poll_pop(cx));
            match select(next, gone).await {
                Either::Left((first, _)) => first,
                Either::Right((read, _)) => {
                    read?;
                    return Err(LinkEnd::Closed);
                }
            }
        };
        let Some(first) = first else { return Ok(()) };
        let mut bytes = room_for(&first);
        let mut together = vec![first];
        while together.len() < TOGETHER && bytes < TOGETHER_BYTES {
            let Some(envelope) = waiting.try_pop() else { break };
            bytes += room_for(&envelope);
            together.push(envelope);
        }
        output.write_all(&encode(&together, bytes)).await?;
    }
}

/// Gives the replica what arrives until the link breaks. A link speaks for one replica, and where there is a certificate for
/// one that it is of.
pub async fn receive<S: AsyncRead + Unpin>(
    stream: S,
    replica: &Replica,
    certificate: Option<&PeerCertificate>,
) -> LinkEnd {
    let (mut speaker, mut refused) = (None, None);
    let take = |envelope: Envelope| {
        let from = envelope.from.replica;
        if speaker != Some(from) {
            refused = match speaker {
                Some(first) => Some(LinkEnd::TwoVoices { first, then: from }),
                None => certificate
                    .filter(|certificate| !replica.0.identities.is(certificate, from))
                    .map(|_| LinkEnd::Impostor(from)),
            };
            if refused.is_some() {
                replica.0.identities.tell_refused(from);
                return false;
            }
            speaker = Some(from);
        }
        let goes_on = !replica.has_halted();
        if goes_on {
            replica.receive(envelope);
        }
        goes_on
    };
    let end = receive_each(stream, take).await;
    refused.unwrap_or(end)
}

/// Gives what arrives until the link breaks, or `take` wants no more.
pub async fn receive_each<S: AsyncRead + Unpin>(
    mut stream: S,
    mut take: impl FnMut(Envelope) -> bool,
) -> LinkEnd {
    let mut input = vec![0; INPUT_BYTES];
    let mut assembler = Assembler::default();
    let limits = Limits {
        maximum: FRAME_BYTES_MAX,
        present: FRAME_BYTES_MAX,
    };
    loop {
        let direct = assembler.missing() >= INPUT_BYTES;
        let target = if direct { assembler.room() } else { &mut input[..] };
        let count = match stream.read(target).await {
            Ok(0) => return LinkEnd::Closed,
            Ok(count) => count,
            Err(error) => return error.into(),
        };
        let mut rest = if direct { &input[..0] } else { &input[..count] };
        let mut frame = if direct { assembler.advance(count) } else { None };
        loop {
            if let Some(frame) = frame.take() {
                let envelopes = match decode(frame) {
                    Ok(envelopes) => envelopes,
                    Err(error) => return error.into(),
                };
                if !envelopes.into_iter().all(&mut take) {
                    return LinkEnd::Stopped;
                }
            }
            if rest.is_empty() {
                break;
            }
            match assembler.feed(rest, limits) {
                Ok((taken, message)) => (rest, frame) = (&rest[taken..], message),
                Err(error) => return error.into(),
            }
        }
    }
}

fn decode(frame: Frame) -> Result<Vec<Envelope>, DecodeError> {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(frame.bytes() / 8 * 4 + 1024));
    options.nesting_limit(16);
    let reader = Reader::new(frame, options);
    let parcel: parcel::Reader<'_> = reader.get_root()?;
    codec::decode_envelopes(parcel.get_envelopes()?)
}

/// About the bytes that it takes in a frame: so that one piece of memory is enough, and one write.
fn room_for(envelope: &Envelope) -> usize {
    let values: &[Value] = match &envelope.message {
        Message::Write(write) => &write.values,
        Message::Promise(promise) => &promise.tail,
        Message::Fetched(fetched) => &fetched.values,
        _ => &[],
    };
    let values: usize = values.iter().map(|value| value.weight() + VALUE_WORDS * 8).sum();
    ENVELOPE_WORDS * 8 + values
}

/// A frame.
pub fn frame(envelopes: &[Envelope]) -> Vec<u8> {
    encode(envelopes, envelopes.iter().map(room_for).sum())
}

fn encode(envelopes: &[Envelope], bytes: usize) -> Vec<u8> {
    let words = u32::try_from(bytes / 8 + 16).unwrap_or(u32::MAX);
    let mut message = Builder::new(HeapAllocator::new().first_segment_words(words));
    let parcel: parcel::Builder<'_> = message.init_root();
    let mut list = parcel.init_envelopes(envelopes.len() as u32);
    for (at, envelope) in (0..).zip(envelopes) {
        codec::encode_envelope(envelope, list.reborrow().get(at));
    }
    capnp::serialize::write_message_to_words(&message)
}

/// A stream whose first bytes were read already, and are read again.
pub struct Returned<S> {
    first: [u8; PREFACE.len()],
    at: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Returned<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let at = self.at;
        if at < self.first.len() && !buffer.is_empty() {
            let count = buffer.len().min(self.first.len() - at);
            buffer[..count].copy_from_slice(&self.first[at..at + count]);
            self.at += count;
            return Poll::Ready(Ok(count));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Returned<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
