//! A master's order to change the limits of a task, and what a task takes whoever has changed them.

use std::rc::Rc;

use agent_core::TaskEvent;
use model::task::{Need, TaskId, TaskReport};
use model::{ContainerState, Fault, FaultKind, Limits};

use crate::cluster::Cluster;
use crate::container_service::update_limits;

/// As long as the order is being carried out.
struct Updating<'a> {
    cluster: &'a Cluster,
    id: &'a TaskId,
}

impl Drop for Updating<'_> {
    fn drop(&mut self) {
        self.cluster.updating.borrow_mut().remove(self.id);
    }
}

impl Cluster {
    /// Of its limits as they are in force. None: it does not run.
    pub fn need(&self, id: &TaskId) -> Option<Need> {
        let core = self.shell.core();
        let status = core.status(id)?;
        (status.state == ContainerState::Running).then_some(())?;
        Some(self.with_ports(id, Need::of_limits(&status.limits)))
    }

    /// Its ports are as they were ordered.
    fn with_ports(&self, id: &TaskId, need: Need) -> Need {
        let book = self.book.borrow();
        Need {
            ports: book.record(id).map_or(0, |record| record.need.ports),
            ..need
        }
    }

    /// Goes to its end when whoever asked does not wait for it, as a launch does.
    pub async fn update(self: &Rc<Self>, id: TaskId, change: Limits, may: Need) -> Result<TaskReport, Fault> {
        let (tell, told) = futures::channel::oneshot::channel();
        let cluster = self.clone();
        net::spawn(async move {
            let _ = tell.send(cluster.update_to_its_end(&id, change, may).await);
        })
        .detach();
        told.await.unwrap_or_else(|_| {
            let fault = Fault::failed("the update was given up within the agent; see its log");
            Err(fault)
        })
    }

    async fn update_to_its_end(
        self: &Rc<Self>,
        id: &TaskId,
        change: Limits,
        may: Need,
    ) -> Result<TaskReport, Fault> {
        if self.book.borrow().record(id).is_none() {
            return Err(Fault::new(
                FaultKind::NotFound,
                format!("the agent has no task {id}"),
            ));
        }
        if self.updating.borrow().contains(id) {
            let fault = Fault::new(
                FaultKind::State,
                format!("another update of task {id} is under way"),
            );
            return Err(fault.remedy("try again when it is done"));
        }
        let limits = self
            .shell
            .core()
            .status(id)
            .map(|status| status.limits.merged(&change));
        let limits = limits.ok_or_else(|| crate::launch::unknown(id))?;
        let need = self.with_ports(id, Need::of_limits(&limits));
        if !need.fits(may) {
            let message =
                format!("task {id} would take more with these limits than its master has kept for it");
            let remedy = "if it was launched with a ceiling of CPU alone give --cpus, else try again";
            return Err(Fault::new(FaultKind::Exhausted, message).remedy(remedy));
        }
        self.updating.borrow_mut().insert(id.clone());
        let updating = Updating { cluster: self, id };
        self.event(TaskEvent::Resizing { id: id.clone(), need });
        let updated = update_limits(&self.shell, id, change).await;
        drop(updating);
        // As it is now, done or not: also when it has ended meanwhile.
        let known = || self.book.borrow().record(id).map(|record| record.need);
        if let Some(need) = self.need(id).or_else(known) {
            let id = id.clone();
            self.event(TaskEvent::Resized { id, need });
        }
        updated?;
        let over = || Fault::new(FaultKind::State, format!("task {id} has ended during the update"));
        let report = self.book.borrow().report(id).ok_or_else(over)?;
        // What is told is true after a restart as well.
        while !self.book.borrow().is_written(id, report.sequence) {
            let written = self.journal.written(id);
            let failed = |_| Fault::failed("the journal of tasks can't be written");
            written.await.map_err(failed)?;
        }
        Ok(report)
    }
}
