//! The Cap'n Proto side of the RPC benchmark: one service and one client loop, whatever event loop carries them.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use wire::agent_capnp::agent;

/// The bytes of one exchange, there and back: those of the bare echo.
const PAYLOAD: [u8; 64] = [7; 64];

/// An agent that can only answer pings.
pub struct PingService;

impl agent::Server for PingService {
    async fn ping(
        self: capnp::capability::Rc<Self>,
        params: agent::PingParams,
        mut results: agent::PingResults,
    ) -> Result<(), capnp::Error> {
        results.get().set_payload(params.get()?.get_payload()?);
        Ok(())
    }
}

pub fn service() -> capnp::capability::Client {
    capnp_rpc::new_client::<agent::Client, _>(PingService).client
}

/// Reads `MILLISECONDS` from stdin, pings one call at a time for so long, answers the number of calls; until end of
/// file. Blocking on stdin is harmless: nothing is in flight then.
pub async fn answer_commands(bootstrap: agent::Client) -> Result<(), capnp::Error> {
    ping(&bootstrap).await?;
    println!("0");
    for line in std::io::stdin().lock().lines() {
        let millis = line?
            .trim()
            .parse()
            .map_err(|_| capnp::Error::failed("not a number".to_string()))?;
        let end = Instant::now() + Duration::from_millis(millis);
        let mut calls = 0u64;
        while Instant::now() < end {
            ping(&bootstrap).await?;
            calls += 1;
        }
        println!("{calls}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn ping(bootstrap: &agent::Client) -> Result<(), capnp::Error> {
    let mut request = bootstrap.ping_request();
    request.get().set_payload(&PAYLOAD);
    let reply = request.send().promise.await?;
    match reply.get()?.get_payload()? == PAYLOAD {
        true => Ok(()),
        false => Err(capnp::Error::failed("the echo differs".to_string())),
    }
}
