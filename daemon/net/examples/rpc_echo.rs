//! Ping-pong over Cap'n Proto RPC, for profiling, next to a bare epoll echo.
//!
//! `rpc_echo unix|tcp [calls] [depth]`: starts a server process, prints calls a second.
//! `rpc_echo bare-unix|bare-tcp [calls]`: the same bytes without RPC.
//! `rpc_echo serve unix:PATH|tcp:ADDRESS`: only the server, for strace and perf.

use std::error::Error;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use futures::io::{AsyncRead, AsyncWrite};
use futures::stream::FuturesUnordered;
use mio::unix::SourceFd;
use net::rpc::{self, RpcLimits};
use wire::agent_capnp::agent;

const PAYLOAD: [u8; 64] = [7; 64];

type Failure = Box<dyn Error>;

struct Echo;

impl agent::Server for Echo {
    async fn ping(
        self: capnp::capability::Rc<Self>,
        params: agent::PingParams,
        mut results: agent::PingResults,
    ) -> Result<(), capnp::Error> {
        results.get().set_payload(params.get()?.get_payload()?);
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |index: usize| arguments.get(index).map_or("", String::as_str);
    let number = |index: usize, default: u32| word(index).parse().unwrap_or(default);
    match word(0) {
        "serve" => serve(word(1)),
        "serve-bare" => serve_bare(word(1)),
        "unix" | "tcp" => measure(word(0), "serve", number(1, 200_000), number(2, 1)),
        "bare-unix" => measure("unix", "serve-bare", number(1, 200_000), 1),
        "bare-tcp" => measure("tcp", "serve-bare", number(1, 200_000), 1),
        _ => {
            Err("usage: rpc_echo unix|tcp [calls] [depth], bare-unix|bare-tcp [calls], serve ADDRESS".into())
        }
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(kind: &str, serve: &str, calls: u32, depth: u32) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("echo.socket");
    let address = match kind {
        "unix" => format!("unix:{}", socket.display()),
        _ => format!("tcp:{}", StdTcpListener::bind("127.0.0.1:0")?.local_addr()?),
    };
    let server = Command::new(std::env::current_exe()?)
        .args([serve, &address])
        .stdin(Stdio::null())
        .spawn()?;
    let _server = Server(server);
    std::thread::sleep(Duration::from_millis(200));
    let began = net::now();
    match (serve, address.split_once(':')) {
        ("serve", Some(("unix", path))) => {
            net::run(net::Config::default(), async {
                ping(net::UnixStream::connect(Path::new(path)).await?, calls, depth).await
            })??;
        }
        ("serve", Some((_, address))) => {
            let address = address.parse()?;
            net::run(net::Config::default(), async {
                ping(net::TcpStream::connect(address).await?, calls, depth).await
            })??;
        }
        (_, Some(("unix", path))) => ping_bare(StdUnixStream::connect(path)?, calls)?,
        (_, Some((_, address))) => {
            let stream = StdTcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            ping_bare(stream, calls)?;
        }
        (_, None) => return Err("bad address".into()),
    }
    let took = net::now() - began;
    println!(
        "{kind} {serve} depth {depth}: {:.0} calls/s",
        f64::from(calls) / took.as_secs_f64()
    );
    Ok(())
}

async fn ping<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    calls: u32,
    depth: u32,
) -> Result<(), Failure> {
    let (connection, agent): (_, agent::Client) = rpc::connect(stream, &RpcLimits::default());
    net::spawn(connection).detach();
    let call = || one_call(&agent);
    if depth <= 1 {
        for _ in 0..calls {
            call().await?;
        }
        return Ok(());
    }
    let mut open: FuturesUnordered<_> = (0..depth).map(|_| call()).collect();
    let mut left = calls;
    while let Some(result) = open.next().await {
        result?;
        left = left.saturating_sub(1);
        if left >= depth {
            open.push(call());
        }
    }
    Ok(())
}

fn one_call(agent: &agent::Client) -> impl Future<Output = Result<(), capnp::Error>> + use<> {
    let mut request = agent.ping_request();
    request.get().set_payload(&PAYLOAD);
    let promise = request.send().promise;
    async move {
        let answer = promise.await?;
        assert_eq!(answer.get()?.get_payload()?, PAYLOAD);
        Ok(())
    }
}

fn serve(address: &str) -> Result<(), Failure> {
    net::run(net::Config::default(), async {
        let limit = net::ConnectionLimit::new(1024);
        let bootstrap: agent::Client = capnp_rpc::new_client(Echo);
        match address.split_once(':') {
            Some(("unix", path)) => {
                let listener = net::UnixListener::bind(&PathBuf::from(path), 0o600)?;
                Err(net::accept_loop(&listener, &limit, |stream, guard| {
                    start(stream, guard, &bootstrap)
                })
                .await
                .into())
            }
            Some(("tcp", address)) => {
                let listener = net::TcpListener::bind(address.parse()?)?;
                Err(net::accept_loop(&listener, &limit, |stream, guard| {
                    start(stream, guard, &bootstrap)
                })
                .await
                .into())
            }
            _ => Err("bad address".into()),
        }
    })?
}

fn start<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    guard: net::ConnectionGuard,
    bootstrap: &agent::Client,
) {
    let client = bootstrap.client.clone();
    net::spawn(async move {
        let reason = rpc::serve_limited(stream, client, &RpcLimits::default(), guard.handle()).await;
        let loop_statistics = net::statistics();
        tracing::info!(%reason, ?loop_statistics, "connection ended");
    })
    .detach();
}

trait BareStream: Read + Write + AsRawFd {}
impl<S: Read + Write + AsRawFd> BareStream for S {}

fn ping_bare(mut stream: impl BareStream, calls: u32) -> Result<(), Failure> {
    let mut poll = mio::Poll::new()?;
    let mut events = mio::Events::with_capacity(16);
    poll.registry().register(
        &mut SourceFd(&stream.as_raw_fd()),
        mio::Token(0),
        mio::Interest::READABLE,
    )?;
    let mut buffer = [0; 4096];
    for _ in 0..calls {
        stream.write_all(&PAYLOAD)?;
        poll.poll(&mut events, None)?;
        assert_eq!(stream.read(&mut buffer)?, PAYLOAD.len());
    }
    Ok(())
}

fn serve_bare(address: &str) -> Result<(), Failure> {
    match address.split_once(':') {
        Some(("unix", path)) => {
            let (stream, _) = StdUnixListener::bind(path)?.accept()?;
            echo_bare(&stream)?;
            stream.shutdown(Shutdown::Both)?;
        }
        Some(("tcp", address)) => {
            let (stream, _) = StdTcpListener::bind(address)?.accept()?;
            stream.set_nodelay(true)?;
            echo_bare(&stream)?;
        }
        _ => return Err("bad address".into()),
    }
    Ok(())
}

fn echo_bare<S: AsRawFd>(stream: &S) -> Result<(), Failure>
where
    for<'a> &'a S: Read + Write,
{
    let mut poll = mio::Poll::new()?;
    let mut events = mio::Events::with_capacity(16);
    poll.registry().register(
        &mut SourceFd(&stream.as_raw_fd()),
        mio::Token(0),
        mio::Interest::READABLE,
    )?;
    let mut buffer = [0; 4096];
    loop {
        poll.poll(&mut events, None)?;
        let count = (&*stream).read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        (&*stream).write_all(&buffer[..count])?;
    }
}
