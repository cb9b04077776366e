//! The streams between a client and a command, as capabilities.

use capnp::capability::Rc as CapRc;
use model::{Fault, FaultKind};
use wire::agent_capnp::{input_sink, output_sink};

use crate::stdin::StdinHold;

/// Where output goes: the client's object. A write comes back when the client's window has room.
#[derive(Clone)]
pub struct OutputSink {
    client: output_sink::Client,
}

impl OutputSink {
    pub fn new(client: output_sink::Client) -> Self {
        Self { client }
    }

    pub async fn write(&self, stream: u8, data: &[u8]) -> Result<(), Fault> {
        let mut request = self.client.write_request();
        request.get().set_stream(stream);
        request.get().set_data(data);
        request.send().await.map_err(|e| gone(&e))
    }

    pub async fn gap(&self, stream: u8, bytes: u64) -> Result<(), Fault> {
        let mut request = self.client.gap_request();
        request.get().set_stream(stream);
        request.get().set_bytes(bytes);
        request.send().promise.await.map(|_| ()).map_err(|e| gone(&e))
    }

    pub async fn done(&self) -> Result<(), Fault> {
        self.client
            .done_request()
            .send()
            .promise
            .await
            .map(|_| ())
            .map_err(|e| gone(&e))
    }
}

fn gone(error: &capnp::Error) -> Fault {
    Fault::new(FaultKind::Unavailable, format!("the client went away: {error}"))
}

/// A client's share of a command's stdin.
pub struct InputService(pub StdinHold);

impl input_sink::Server for InputService {
    async fn write(self: CapRc<Self>, params: input_sink::WriteParams) -> Result<(), capnp::Error> {
        let stdin = self.0.stdin().clone();
        let data = params.get()?.get_data()?.to_vec();
        stdin
            .write(&data)
            .await
            .map_err(|fault| capnp::Error::failed(fault.to_string()))
    }

    async fn close(
        self: CapRc<Self>,
        _params: input_sink::CloseParams,
        _results: input_sink::CloseResults,
    ) -> Result<(), capnp::Error> {
        let stdin = self.0.stdin().clone();
        stdin.close_in_turn().await;
        Ok(())
    }
}
