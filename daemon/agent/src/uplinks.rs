//! Changes of the host's interfaces and addresses, passed on to its containers' networks as they come.

use std::rc::Rc;
use std::time::Duration;

use isolators::network::{NetworkIsolator, Notices};

use crate::shell::Shell;

/// Changes come in bunches: an interface that comes up has its addresses a little later.
const SETTLED: Duration = Duration::from_millis(200);

/// Without it they are noticed at the next sample of statistics.
pub async fn follow(shell: Rc<Shell>) {
    let opened = NetworkIsolator::notices().map_err(|fault| fault.to_string());
    let watched = opened.and_then(|notices| {
        net::Source::new(notices, net::Interest::Readable).map_err(|error| error.to_string())
    });
    let notices = match watched {
        Ok(notices) => notices,
        Err(error) => return tracing::warn!("watch the host's interfaces and addresses: {error}"),
    };
    loop {
        if let Err(error) = notices.read_with(Notices::take).await {
            return tracing::warn!("read what has changed at the host's interfaces: {error}");
        }
        net::sleep(SETTLED).await;
        look_again(&shell).await;
    }
}

/// Compares the host's uplinks and addresses with what containers have.
pub async fn look_again(shell: &Shell) {
    let network = shell.network.clone();
    if let Ok(Err(fault)) = shell.pool.run(move || network.refresh()).await {
        tracing::warn!("look at the uplinks again: {fault}");
    }
}
