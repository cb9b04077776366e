//! The same service on the product's own event loop.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use futures::io::{AsyncRead, AsyncWrite};
use net::rpc::{RpcLimits, connect, serve_connection};
use wire::agent_capnp::agent;

use crate::ping;

type Outcome = Result<(), Box<dyn Error>>;

const NO_ADDRESS: &str = "address is neither unix:PATH nor tcp:PORT";

fn loopback(port: &str) -> Result<SocketAddr, std::num::ParseIntError> {
    Ok((Ipv4Addr::LOCALHOST, port.parse()?).into())
}

pub fn serve(address: &str) -> Outcome {
    net::run(net::Config::default(), async {
        match address.split_once(':') {
            Some(("unix", path)) => {
                let listener = net::UnixListener::bind(Path::new(path), 0o600)?;
                println!("0");
                serve_all(async || listener.accept().await).await
            }
            Some(("tcp", port)) => {
                let listener = net::TcpListener::bind(loopback(port)?)?;
                println!("0");
                serve_all(async || listener.accept().await).await
            }
            _ => Err(NO_ADDRESS.into()),
        }
    })?
}

async fn serve_all<S, F>(accept: impl Fn() -> F) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Future<Output = io::Result<S>>,
{
    loop {
        let connection = serve_connection(accept().await?, ping::service(), &RpcLimits::default());
        net::spawn(async move { drop(connection.await) }).detach();
    }
}

pub fn drive(address: &str) -> Outcome {
    net::run(net::Config::default(), async {
        match address.split_once(':') {
            Some(("unix", path)) => exchange(net::UnixStream::connect(Path::new(path)).await?).await,
            Some(("tcp", port)) => exchange(net::TcpStream::connect(loopback(port)?).await?).await,
            _ => Err(NO_ADDRESS.into()),
        }
    })?
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Outcome {
    let (connection, bootstrap) = connect::<_, agent::Client>(stream, &RpcLimits::default());
    let driver = net::spawn(async move { drop(connection.await) });
    let outcome = ping::answer_commands(bootstrap).await;
    drop(driver);
    Ok(outcome?)
}
