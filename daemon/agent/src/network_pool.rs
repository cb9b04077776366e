//! Empty network namespaces made ahead: each takes a third of a millisecond, which a launch need not wait
//! for. A namespace is used once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use model::Fault;

/// After this the launch that asked has its own; a burst makes its namespaces itself once the pool is empty.
const REFILL_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Filled on the first use, then kept full in the background: a host without isolated containers pays
/// nothing (one namespace is about 180 kB of kernel memory).
#[derive(Clone)]
pub struct NetworkPool {
    ready: Rc<RefCell<VecDeque<OwnedFd>>>,
    filling: Rc<Cell<bool>>,
    size: usize,
    pool: net::Pool,
}

impl NetworkPool {
    pub fn new(size: usize, pool: net::Pool) -> Self {
        Self {
            ready: Rc::default(),
            filling: Rc::default(),
            size,
            pool,
        }
    }

    /// `None`: the pool is empty, let the child make its own; in a burst that is cheaper than waiting for one of ours.
    pub fn take(&self) -> Option<OwnedFd> {
        let found = self.ready.borrow_mut().pop_front();
        // In batches and not at once: making one takes the processor that the launch needs now.
        if self.len() <= self.size / 2 {
            self.refill();
        }
        found
    }

    pub fn len(&self) -> usize {
        self.ready.borrow().len()
    }

    fn refill(&self) {
        if self.filling.replace(true) {
            return;
        }
        let this = self.clone();
        net::spawn(async move {
            net::sleep(REFILL_PAUSE).await;
            while this.len() < this.size {
                match make(&this.pool).await {
                    Ok(namespace) => this.ready.borrow_mut().push_back(namespace),
                    Err(fault) => {
                        tracing::warn!("fill the pool of network namespaces: {fault}");
                        break;
                    }
                }
            }
            this.filling.set(false);
        })
        .detach();
    }
}

async fn make(pool: &net::Pool) -> Result<OwnedFd, Fault> {
    match pool.run(container::netpool::make_empty_netns).await {
        Ok(Ok(namespace)) => Ok(namespace),
        Ok(Err(error)) => Err(Fault::failed(format!("make a network namespace: {error}"))),
        Err(error) => Err(Fault::failed(format!("make a network namespace: {error}"))),
    }
}
