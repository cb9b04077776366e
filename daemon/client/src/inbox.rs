//! Events and samples that the agent pushes, taken one by one.
//!
//! A push is answered when its item is taken from here, so the agent never runs ahead of us by more
//! than its window.

use std::future::Future;
use std::rc::Rc;

use capnp::capability::Rc as ServerRc;
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use model::{ContainerUsage, Event, Fault};
use wire::agent_capnp::{event_sink, statistics_sink, subscription};

use crate::connection::Connection;

type Taken = oneshot::Sender<()>;
type Sender<T> = mpsc::UnboundedSender<(Result<T, Fault>, Taken)>;

/// A subscription. Dropping it ends it.
pub(crate) struct Inbox<T> {
    connection: Rc<Connection>,
    items: mpsc::UnboundedReceiver<(Result<T, Fault>, Taken)>,
    subscription: Option<subscription::Client>,
    ended: bool,
}

impl<T> Inbox<T> {
    fn new(connection: Rc<Connection>) -> (Sender<T>, Self) {
        // Unbounded only in type: what is in it is what the agent's flow control lets fly.
        let (sender, items) = mpsc::unbounded();
        (
            sender,
            Self {
                connection,
                items,
                subscription: None,
                ended: false,
            },
        )
    }

    async fn next(&mut self) -> Option<Result<T, Fault>> {
        if self.ended {
            return None;
        }
        match self.items.next().await {
            Some((item, taken)) => {
                // Fails when the agent has given up the call; the item is here all the same.
                let _ = taken.send(());
                Some(item)
            }
            None => {
                self.ended = true;
                // The sinks of a lost connection are dropped a little before its end is told.
                net::yield_now().await;
                self.connection.is_closed().then(|| Err(self.connection.gone()))
            }
        }
    }
}

/// Queues at once, in the order of the calls; the returned future waits for the taking.
fn queue<T>(
    sender: &Sender<T>,
    item: Result<T, Fault>,
) -> impl Future<Output = Result<(), capnp::Error>> + use<T> {
    let (taken, result) = oneshot::channel();
    // A closed queue drops `taken`, and that is the error below.
    let _ = sender.unbounded_send((item, taken));
    async move {
        result
            .await
            .map_err(|_| capnp::Error::failed("the subscriber is gone".into()))
    }
}

/// What happens, in order.
pub struct Events(Inbox<Event>);

impl Events {
    /// `None` when the agent has ended it; `Unavailable` when the agent went away.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        self.0.next().await
    }

    pub(crate) fn open(connection: Rc<Connection>) -> (event_sink::Client, Self) {
        let (sender, inbox) = Inbox::new(connection);
        (capnp_rpc::new_client(EventSink(sender)), Self(inbox))
    }

    pub(crate) fn hold(&mut self, subscription: Option<subscription::Client>) {
        self.0.subscription = subscription;
    }
}

/// Samples of every container watched, a list at a time.
pub struct Samples(Inbox<Vec<ContainerUsage>>);

impl Samples {
    /// `None` when the agent has ended it; `Unavailable` when the agent went away.
    pub async fn next(&mut self) -> Option<Result<Vec<ContainerUsage>, Fault>> {
        self.0.next().await
    }

    pub(crate) fn open(connection: Rc<Connection>) -> (statistics_sink::Client, Self) {
        let (sender, inbox) = Inbox::new(connection);
        (capnp_rpc::new_client(StatisticsSink(sender)), Self(inbox))
    }

    pub(crate) fn hold(&mut self, subscription: Option<subscription::Client>) {
        self.0.subscription = subscription;
    }
}

struct EventSink(Sender<Event>);

impl event_sink::Server for EventSink {
    fn push(
        self: ServerRc<Self>,
        params: event_sink::PushParams,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        let read = params.get().and_then(|push| push.get_event());
        let queued = read.map(|event| queue(&self.0, wire::event::decode(event)));
        async move { queued?.await }
    }
}

struct StatisticsSink(Sender<Vec<ContainerUsage>>);

impl statistics_sink::Server for StatisticsSink {
    fn push(
        self: ServerRc<Self>,
        params: statistics_sink::PushParams,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        let queued = params
            .get()
            .map(|push| queue(&self.0, wire::usage::decode_list(push.get_samples())));
        async move { queued?.await }
    }
}
