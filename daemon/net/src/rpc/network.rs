//! The transport as capnp-rpc sees it: a network of two, with one connection.
//!
//! Instead of `capnp_rpc::twoparty`: that one reads and writes through queues and futures of its own, which cost a third
//! of a small call, and sets aside what a message header promises.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use capnp::capability::Promise;
use capnp::message::{self, HeapAllocator, ReaderOptions};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{IncomingMessage, OutgoingMessage, VatNetwork};
use futures::channel::oneshot;
use futures::io::{AsyncRead, AsyncWrite};

use super::frame;
use super::transport::Transport;

/// The RPC system asks for 1024 words for each call. They would be zeroed for nothing; a message that needs more grows.
const FIRST_SEGMENT_WORDS_MAX: u32 = 128;

type Builder = message::Builder<HeapAllocator>;

pub(super) struct Network<S> {
    /// Handed out by `accept`.
    link: Option<Link<S>>,
    /// Used by `connect`; the RPC system decides how long the link lives.
    weak: Weak<LinkState<S>>,
    side: Side,
    shut_down: Option<oneshot::Receiver<capnp::Result<()>>>,
}

/// The connection between the two.
struct Link<S>(Rc<LinkState<S>>);

struct LinkState<S> {
    transport: Rc<Transport<S>>,
    side: Side,
    options: ReaderOptions,
    result: RefCell<capnp::Result<()>>,
    /// Told when the RPC system has let go of the link.
    ended: Cell<Option<oneshot::Sender<capnp::Result<()>>>>,
}

impl<S> Drop for LinkState<S> {
    fn drop(&mut self) {
        let result = self.result.replace(Ok(()));
        if let Some(ended) = self.ended.take() {
            // The network may be gone already.
            let _ = ended.send(result);
        }
    }
}

impl<S> Network<S> {
    pub(super) fn new(transport: Rc<Transport<S>>, side: Side, options: ReaderOptions) -> Self {
        let (ended, shut_down) = oneshot::channel();
        let state = Rc::new(LinkState {
            transport,
            side,
            options,
            result: RefCell::new(Ok(())),
            ended: Cell::new(Some(ended)),
        });
        Self {
            weak: Rc::downgrade(&state),
            link: Some(Link(state)),
            side,
            shut_down: Some(shut_down),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> VatNetwork<Side> for Network<S> {
    fn connect(&mut self, host: Side) -> Option<Box<dyn capnp_rpc::Connection<Side>>> {
        if host == self.side {
            return None;
        }
        Some(Box::new(Link(self.weak.upgrade()?)))
    }

    fn accept(&mut self) -> Promise<Box<dyn capnp_rpc::Connection<Side>>, capnp::Error> {
        match self.link.take() {
            Some(link) => Promise::ok(Box::new(link)),
            None => Promise::from_future(std::future::pending()),
        }
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), capnp::Error> {
        let shut_down = self.shut_down.take();
        Promise::from_future(async move {
            match shut_down {
                Some(shut_down) => shut_down.await.unwrap_or(Ok(())),
                None => std::future::pending().await,
            }
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> capnp_rpc::Connection<Side> for Link<S> {
    fn get_peer_vat_id(&self) -> Side {
        self.0.side
    }

    fn new_outgoing_message(&mut self, first_segment_words: u32) -> Box<dyn OutgoingMessage> {
        let words = first_segment_words.clamp(1, FIRST_SEGMENT_WORDS_MAX);
        Box::new(Outgoing {
            message: Builder::new(HeapAllocator::new().first_segment_words(words)),
            transport: Rc::clone(&self.0.transport),
        })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, capnp::Error> {
        let transport = &self.0.transport;
        let options = self.0.options;
        // No future is needed for what has arrived together with the message before.
        if let Some(message) = transport.take_buffered() {
            return Promise::ok(Some(incoming(message, options)));
        }
        Promise::from_future(Receive {
            transport: Rc::clone(transport),
            options,
        })
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), capnp::Error> {
        *self.0.result.borrow_mut() = result;
        Promise::ok(())
    }
}

struct Outgoing<S> {
    message: Builder,
    transport: Rc<Transport<S>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> OutgoingMessage for Outgoing<S> {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_root()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_root_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), capnp::Error>, Rc<Builder>) {
        let Self { message, transport } = *self;
        let message = Rc::new(message);
        transport.send(&message);
        (Promise::ok(()), message)
    }

    fn take(self: Box<Self>) -> Builder {
        self.message
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}

struct Incoming(message::Reader<frame::Message>);

impl IncomingMessage for Incoming {
    fn get_body(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.0.get_root()
    }
}

fn incoming(message: frame::Message, options: ReaderOptions) -> Box<dyn IncomingMessage> {
    Box::new(Incoming(message::Reader::new(message, options)))
}

/// Waits for the next message.
struct Receive<S> {
    transport: Rc<Transport<S>>,
    options: ReaderOptions,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Receive<S> {
    type Output = capnp::Result<Option<Box<dyn IncomingMessage>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.transport
            .poll_message(cx)
            .map_ok(|message| message.map(|message| incoming(message, self.options)))
    }
}
