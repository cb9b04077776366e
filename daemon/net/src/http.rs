//! HTTP/1.1 server on the loop: small answers to small questions (metrics, health, state).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
pub use http_body_util::Full;
use http_body_util::{BodyExt as _, Limited};
pub use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
pub use hyper::{Method, StatusCode, header};

use crate::clock;
use crate::executor::TaskSet;
use crate::limit::{ConnectionGuard, ConnectionHandle, ConnectionLimit, Listener, accept_loop};
use crate::timer::{self, sleep_until, timeout};

/// A request with its whole body.
pub type Request = hyper::Request<Bytes>;
/// An answer with its whole body.
pub type Response = hyper::Response<Full<Bytes>>;
/// What answers requests. A panic in it ends its connection only.
pub type Handler = Rc<dyn Fn(Request) -> LocalBoxFuture<'static, Response>>;

/// Bounds of an HTTP server.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    pub connections_max: usize,
    /// From the first byte of a request, or from the end of the one before it, to the end of its header. So it is also how
    /// long a kept-alive connection may idle.
    pub header_deadline: Duration,
    pub body_deadline: Duration,
    /// The peer may take none of an answer's bytes for so long.
    pub write_deadline: Duration,
    /// Request line and header fields together; at least 8192.
    pub header_bytes_max: usize,
    pub header_fields_max: usize,
    pub body_bytes_max: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            header_deadline: Duration::from_secs(15),
            body_deadline: Duration::from_secs(15),
            write_deadline: Duration::from_secs(30),
            header_bytes_max: 16 << 10,
            header_fields_max: 64,
            body_bytes_max: 64 << 10,
        }
    }
}

/// An answer of plain text.
pub fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}

/// Serves for ever; ends only when the listener is broken. Dropping it ends all its connections.
pub async fn serve<L>(listener: L, handler: Handler, limits: HttpLimits) -> io::Error
where
    L: Listener,
    L::Stream: AsyncRead + AsyncWrite + Unpin,
{
    let limit = ConnectionLimit::new(limits.connections_max);
    serve_limited(listener, handler, limits, limit).await
}

/// As [`serve`], with a limit that the caller can look into or share.
pub async fn serve_limited<L>(
    listener: L,
    handler: Handler,
    limits: HttpLimits,
    limit: ConnectionLimit,
) -> io::Error
where
    L: Listener,
    L::Stream: AsyncRead + AsyncWrite + Unpin,
{
    let limits = Rc::new(limits);
    let connections = TaskSet::new();
    accept_loop(&listener, &limit, |stream, guard| {
        connections.spawn(serve_connection(
            stream,
            Rc::clone(&handler),
            Rc::clone(&limits),
            guard,
        ));
    })
    .await
}

/// One connection that somebody else has accepted, until it ends.
pub async fn serve_connection<S>(stream: S, handler: Handler, limits: Rc<HttpLimits>, guard: ConnectionGuard)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let handle = guard.handle();
    let io = HyperStream {
        stream,
        handle: handle.clone(),
        write_deadline: limits.write_deadline,
        write_alarm: None,
    };
    let service_limits = Rc::clone(&limits);
    let service_handle = handle.clone();
    let service = service_fn(move |request| {
        answer(
            request,
            Rc::clone(&handler),
            Rc::clone(&service_limits),
            service_handle.clone(),
        )
    });
    let connection = http1::Builder::new()
        .timer(LoopTimer)
        .header_read_timeout(limits.header_deadline)
        .max_buf_size(limits.header_bytes_max.max(8 << 10))
        .max_headers(limits.header_fields_max)
        .keep_alive(true)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut evicted = handle.evicted();
    let result = poll_fn(|cx| {
        if Pin::new(&mut evicted).poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, "http connection ended");
    }
    drop(guard);
}

/// Collects the body within its limits and asks the handler.
async fn answer(
    request: hyper::Request<Incoming>,
    handler: Handler,
    limits: Rc<HttpLimits>,
    handle: ConnectionHandle,
) -> Result<Response, Infallible> {
    let _busy = Busy::new(handle);
    let (head, body) = request.into_parts();
    let collected = timeout(
        limits.body_deadline,
        Limited::new(body, limits.body_bytes_max).collect(),
    )
    .await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request body is too large\n",
            ));
        }
        Ok(Err(_)) => return Ok(refusal(StatusCode::BAD_REQUEST, "request body is broken\n")),
        Err(timer::Elapsed) => {
            return Ok(refusal(
                StatusCode::REQUEST_TIMEOUT,
                "request body did not arrive in time\n",
            ));
        }
    };
    Ok(handler(Request::from_parts(head, body)).await)
}

/// After a refusal the rest of the request is not read: the connection has to end.
fn refusal(status: StatusCode, message: &'static str) -> Response {
    let mut response = text(status, "text/plain; charset=utf-8", message);
    response
        .headers_mut()
        .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// A connection that is being answered is not idle.
struct Busy(ConnectionHandle);

impl Busy {
    fn new(handle: ConnectionHandle) -> Self {
        handle.touch();
        handle.set_calls(1);
        Self(handle)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_calls(0);
        self.0.touch();
    }
}

/// A stream as hyper wants it, with a deadline for writing.
struct HyperStream<S> {
    stream: S,
    handle: ConnectionHandle,
    write_deadline: Duration,
    write_alarm: Option<timer::Sleep>,
}

impl<S: AsyncRead + Unpin> Read for HyperStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper's buffer may be uninitialised memory, which only unsafe code can fill in place.
        let mut buffer = [0; 8 << 10];
        let wanted = cursor.remaining().min(buffer.len());
        let count = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer[..wanted]))?;
        cursor.put_slice(&buffer[..count]);
        self.handle.touch();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> HyperStream<S> {
    fn watch<R>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.write_alarm = None;
            return polled;
        }
        let deadline = self.write_deadline;
        let alarm = self
            .write_alarm
            .get_or_insert_with(|| sleep_until(clock::now() + deadline));
        match Pin::new(alarm).poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for HyperStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watch(cx, polled)
    }
}

/// hyper's timer on this loop.
#[derive(Clone, Copy)]
struct LoopTimer;

struct HyperSleep(timer::Sleep);

impl Future for HyperSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl hyper::rt::Sleep for HyperSleep {}

impl hyper::rt::Timer for LoopTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(HyperSleep(timer::sleep(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(HyperSleep(sleep_until(deadline)))
    }

    fn now(&self) -> Instant {
        clock::now()
    }
}
