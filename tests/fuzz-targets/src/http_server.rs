//! The HTTP server, fed with a peer's bytes.
//!
//! Rules: it lets go of the connection when the peer has; nothing panics; what a handler gets is within the limits.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use agent::endpoints::{Page, asked};
use futures::FutureExt as _;
use net::http::{self, Handler, HttpLimits, Request, Response, StatusCode};

use crate::feed::{self, Feed};

/// Hands out one connection.
struct Once(Cell<Option<Feed>>);

impl net::Listener for Once {
    type Stream = Feed;

    fn poll_accept(&self, _: &mut Context<'_>) -> Poll<io::Result<Feed>> {
        self.0.take().map_or(Poll::Pending, |feed| Poll::Ready(Ok(feed)))
    }

    fn describe(&self) -> String {
        "a list of bytes".to_owned()
    }
}

pub fn run(data: &[u8]) {
    feed::watch_panics();
    let mut feed = Feed::new(data);
    let gone = feed.on_drop();
    let limits = HttpLimits {
        body_bytes_max: 4096,
        ..HttpLimits::default()
    };
    let ended = net::run(net::Config::default(), async move {
        let handler: Handler = Rc::new(|request| async move { answer(&request) }.boxed_local());
        let serving = http::serve(Once(Cell::new(Some(feed))), handler, limits);
        let mut serving = std::pin::pin!(serving);
        let both = futures::future::select(serving.as_mut(), gone);
        net::timeout(Duration::from_secs(5), both).await.is_ok()
    });
    assert!(ended.expect("a loop"), "the connection was kept");
    assert!(!feed::contained(), "a panic was caught");
}

fn answer(request: &Request) -> Response {
    assert!(request.body().len() <= 4096 && request.headers().len() <= 64);
    let one = asked(request.uri().path(), request.uri().query());
    let known = !matches!(one.page, Page::Unknown(_));
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    };
    match one
        .jsonp
        .map(|name| api::mesos::jsonp(name, &serde_json::Value::Null))
    {
        Some(Err(fault)) => http::text(StatusCode::BAD_REQUEST, "text/plain", fault.to_string()),
        Some(Ok(script)) => http::text(status, "text/javascript", script),
        None => http::text(status, "text/plain", format!("{:?}", one.page)),
    }
}
