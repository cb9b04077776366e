//! Input for a command.

use std::rc::Rc;

use model::{Fault, FaultKind};
use wire::agent_capnp::input_sink;

use crate::connection::Connection;

/// A single message is at most this long, so that one paste does not hold up other calls.
const PIECE_BYTES: usize = 32 << 10;

/// Stdin of a command. Dropping it closes stdin.
pub struct Input {
    connection: Rc<Connection>,
    sink: input_sink::Client,
}

impl Input {
    pub(crate) fn new(connection: Rc<Connection>, sink: input_sink::Client) -> Self {
        Self { connection, sink }
    }

    /// Resolves when more may be written: the command's pipe holds this back. `State` when the command
    /// has closed its stdin.
    pub async fn write(&self, data: &[u8]) -> Result<(), Fault> {
        for piece in data.chunks(PIECE_BYTES) {
            let mut request = self.sink.write_request();
            request.get().set_data(piece);
            request.send().await.map_err(|error| self.closed(&error))?;
        }
        Ok(())
    }

    /// End of file for the command, after all that was written. Resolves when it is on its way.
    pub async fn close(self) -> Result<(), Fault> {
        match self.sink.close_request().send().promise.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.closed(&error)),
        }
    }

    fn closed(&self, error: &capnp::Error) -> Fault {
        match self.connection.failed(error) {
            fault if fault.kind == FaultKind::Failed => Fault {
                kind: FaultKind::State,
                ..fault
            },
            fault => fault,
        }
    }
}
