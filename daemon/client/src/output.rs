//! Output of a command on its way to us.
//!
//! The agent calls our sink; each call is answered only when the [`Output`] has taken the bytes, so a
//! slow terminal slows the agent's sending and nothing piles up. Calls of a stream may be under way
//! several at a time (64 KiB in flight): one task takes them in the order in which they came.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use capnp::capability::Rc as ServerRc;
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::LocalBoxFuture;
use model::Fault;
use wire::agent_capnp::{output_sink, subscription};

use crate::connection::Connection;

/// Also what a terminal shows.
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;

/// Takes what a command writes. An error ends the sending; the command is not touched.
pub trait Output {
    /// Resolves when the bytes are taken: until then no more are asked for than are in flight.
    fn write<'a>(&'a mut self, stream: u8, data: &'a [u8]) -> LocalBoxFuture<'a, Result<(), Fault>>;
    /// So many bytes were rotated away before they were read.
    fn gap(&mut self, stream: u8, bytes: u64) -> LocalBoxFuture<'_, Result<(), Fault>>;
    /// Nothing more will come.
    fn done(&mut self) -> LocalBoxFuture<'_, Result<(), Fault>>;
}

/// How the sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputEnded {
    /// The agent said that nothing more will come.
    Complete,
    /// The agent let go without saying so: the connection ended, or it had nothing to attach to.
    Cut,
}

/// How far an output has come. It moves with everything that comes and everything that is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub bytes_received: u64,
    /// Calls of the agent, and those of them that are done.
    pub received: u64,
    pub taken: u64,
}

impl Progress {
    /// Something has come that the [`Output`] has not taken yet.
    pub fn is_pending(self) -> bool {
        self.received != self.taken
    }
}

/// Resolves when the last byte has been taken. Dropping it ends what was attached.
#[must_use = "dropping it ends the output"]
pub struct OutputEnd {
    ended: oneshot::Receiver<Result<OutputEnded, Fault>>,
    /// The connection too: an attachment needs no other handle.
    held: Option<(Rc<Connection>, Option<subscription::Client>)>,
    progress: Rc<Cell<Progress>>,
    _pump: net::Task<()>,
}

impl OutputEnd {
    pub fn progress(&self) -> Progress {
        self.progress.get()
    }

    pub(crate) fn hold(&mut self, connection: Rc<Connection>, subscription: Option<subscription::Client>) {
        self.held = Some((connection, subscription));
    }
}

impl Future for OutputEnd {
    type Output = Result<OutputEnded, Fault>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.ended)
            .poll(context)
            .map(|ended| ended.unwrap_or(Ok(OutputEnded::Cut)))
    }
}

/// A sink to be handed to the agent, and its end.
pub(crate) fn sink(output: Box<dyn Output>) -> (output_sink::Client, OutputEnd) {
    // Unbounded only in type: what is in it is what the agent's flow control lets fly.
    let (sender, receiver) = mpsc::unbounded();
    let (end, ended) = oneshot::channel();
    let progress = Rc::new(Cell::new(Progress::default()));
    let taking = Rc::clone(&progress);
    let pump = net::spawn(async move {
        // Fails when nobody waits for the end.
        let _ = end.send(pump(output, receiver, &taking).await);
    });
    let sink = Sink {
        sender,
        progress: Rc::clone(&progress),
    };
    (
        capnp_rpc::new_client(sink),
        OutputEnd {
            ended,
            held: None,
            progress,
            _pump: pump,
        },
    )
}

enum Item {
    Write(output_sink::WriteParams),
    Gap { stream: u8, bytes: u64 },
    Done,
}

type Taken = oneshot::Sender<Result<(), capnp::Error>>;

struct Sink {
    sender: mpsc::UnboundedSender<(Item, Taken)>,
    progress: Rc<Cell<Progress>>,
}

impl Sink {
    /// Queues at once, in the order of the calls; the returned future waits for the taking.
    fn queue(&self, item: Item) -> impl Future<Output = Result<(), capnp::Error>> + use<> {
        let mut progress = self.progress.get();
        progress.received += 1;
        if let Item::Write(params) = &item {
            let length = params
                .get()
                .and_then(|write| write.get_data())
                .map_or(0, <[u8]>::len);
            progress.bytes_received += length as u64;
        }
        self.progress.set(progress);
        let (taken, result) = oneshot::channel();
        // A closed queue drops `taken`, and that is the error below.
        let _ = self.sender.unbounded_send((item, taken));
        async move {
            result
                .await
                .unwrap_or_else(|_| Err(capnp::Error::failed("the output is closed".into())))
        }
    }
}

impl output_sink::Server for Sink {
    fn write(
        self: ServerRc<Self>,
        params: output_sink::WriteParams,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        self.queue(Item::Write(params))
    }

    fn gap(
        self: ServerRc<Self>,
        params: output_sink::GapParams,
        _: output_sink::GapResults,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        let item = params.get().map(|gap| Item::Gap {
            stream: gap.get_stream(),
            bytes: gap.get_bytes(),
        });
        let queued = item.map(|item| self.queue(item));
        async move { queued?.await }
    }

    fn done(
        self: ServerRc<Self>,
        _: output_sink::DoneParams,
        _: output_sink::DoneResults,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        self.queue(Item::Done)
    }
}

async fn pump(
    mut output: Box<dyn Output>,
    mut items: mpsc::UnboundedReceiver<(Item, Taken)>,
    progress: &Cell<Progress>,
) -> Result<OutputEnded, Fault> {
    while let Some((item, taken)) = items.next().await {
        let done = matches!(item, Item::Done);
        if let Err(fault) = take(&mut *output, item).await {
            let _ = taken.send(Err(capnp::Error::failed(fault.to_string())));
            return Err(fault);
        }
        progress.update(|progress| Progress {
            taken: progress.taken + 1,
            ..progress
        });
        // Fails when the agent has given up this call: the bytes are taken all the same.
        let _ = taken.send(Ok(()));
        if done {
            return Ok(OutputEnded::Complete);
        }
    }
    Ok(OutputEnded::Cut)
}

async fn take(output: &mut dyn Output, item: Item) -> Result<(), Fault> {
    match item {
        Item::Write(params) => {
            let unreadable = |error: capnp::Error| Fault::failed(format!("output can not be read: {error}"));
            let write = params.get().map_err(unreadable)?;
            output
                .write(write.get_stream(), write.get_data().map_err(unreadable)?)
                .await
        }
        Item::Gap { stream, bytes } => output.gap(stream, bytes).await,
        Item::Done => output.done().await,
    }
}
