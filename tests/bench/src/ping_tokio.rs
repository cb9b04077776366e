//! The same service on tokio's single-threaded runtime: what people would have used instead of our loop.

use std::error::Error;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty::VatNetwork};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader, BufWriter};
use tokio::task::LocalSet;
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::ping;

type Outcome = Result<(), Box<dyn Error>>;

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    LocalSet::new().block_on(&runtime, work)
}

fn system(stream: impl AsyncRead + AsyncWrite + 'static, side: Side) -> RpcSystem<Side> {
    let (reader, writer) = stream.split();
    let bootstrap = matches!(side, Side::Server).then(ping::service);
    // Unbuffered streams cost a fifth to two fifths: header and body would be read one by one.
    let network = VatNetwork::new(
        BufReader::new(reader),
        BufWriter::new(writer),
        side,
        Default::default(),
    );
    RpcSystem::new(Box::new(network), bootstrap)
}

pub fn serve(address: &str) -> Outcome {
    block_on(async {
        match address.split_once(':') {
            Some(("unix", path)) => {
                let listener = tokio::net::UnixListener::bind(path)?;
                println!("0");
                loop {
                    let (stream, _) = listener.accept().await?;
                    tokio::task::spawn_local(system(stream.compat(), Side::Server));
                }
            }
            Some(("tcp", port)) => {
                let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
                println!("0");
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    tokio::task::spawn_local(system(stream.compat(), Side::Server));
                }
            }
            _ => Err("address is neither unix:PATH nor tcp:PORT".into()),
        }
    })
}

pub fn drive(address: &str) -> Outcome {
    block_on(async {
        let mut system = match address.split_once(':') {
            Some(("unix", path)) => system(
                tokio::net::UnixStream::connect(path).await?.compat(),
                Side::Client,
            ),
            Some(("tcp", port)) => {
                let stream = tokio::net::TcpStream::connect(("127.0.0.1", port.parse()?)).await?;
                stream.set_nodelay(true)?;
                system(stream.compat(), Side::Client)
            }
            _ => return Err("address is neither unix:PATH nor tcp:PORT".into()),
        };
        let bootstrap = system.bootstrap(Side::Server);
        tokio::task::spawn_local(system);
        Ok(ping::answer_commands(bootstrap).await?)
    })
}
