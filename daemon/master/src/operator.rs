//! What a person at the master can ask.

use std::rc::{Rc, Weak};
use std::sync::Arc;

use capnp::capability::Rc as CapRc;
use master_core::Input;
use model::registry::AgentId;
use model::task::TaskRequest;
use model::{Fault, FaultKind, Millis};
use wire::master_capnp::operator;

use crate::gate::attempt;
use crate::leader::Leader;

/// Entries of one page.
const PAGE: usize = wire::master::PAGE_MAX as usize;

pub struct OperatorService {
    pub leader: Weak<Leader>,
}

impl OperatorService {
    fn leading(&self) -> Result<Rc<Leader>, Fault> {
        let leader = self.leader.upgrade().filter(|leader| leader.holds());
        leader.ok_or_else(|| Fault::new(FaultKind::Unavailable, "this master leads no more"))
    }
}

fn text(field: &str, value: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, Fault> {
    wire::agent::decode_text(field, value)
}

impl operator::Server for OperatorService {
    async fn launch(
        self: CapRc<Self>,
        params: operator::LaunchParams,
        mut results: operator::LaunchResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let leader = attempt!(results, self.leading());
        let id = attempt!(results, wire::master::decode_id(params.get_id()));
        let agent = attempt!(results, text("agent", params.get_agent()));
        let spec = attempt!(results, wire::launch::decode(params.get_spec()?));
        let request = TaskRequest {
            id: id.clone(),
            agent: (!agent.is_empty()).then_some(AgentId(agent)),
            spec: Arc::new(spec),
        };
        attempt!(
            results,
            leader.ask(|ticket| Input::Launch { ticket, request }).await
        );
        let forgotten = || Fault::failed("the task has ended, and is forgotten already");
        let view = attempt!(results, leader.core().task(&id).ok_or_else(forgotten));
        wire::master::encode_task(&view, results.get().init_task());
        Ok(())
    }

    async fn update(
        self: CapRc<Self>,
        params: operator::UpdateParams,
        mut results: operator::UpdateResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let leader = attempt!(results, self.leading());
        let name = attempt!(results, text("id", params.get_id()));
        let id = attempt!(results, leader.core().find_task(&name));
        let change = Box::new(attempt!(results, wire::limits::decode(params.get_limits()?)));
        let asked = leader.ask(|ticket| Input::Resize {
            ticket,
            id: id.clone(),
            change,
        });
        attempt!(results, asked.await);
        let forgotten = || Fault::failed("the task has ended, and is forgotten already");
        let view = attempt!(results, leader.core().task(&id).ok_or_else(forgotten));
        wire::master::encode_task(&view, results.get().init_task());
        Ok(())
    }

    async fn kill(
        self: CapRc<Self>,
        params: operator::KillParams,
        mut results: operator::KillResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let leader = attempt!(results, self.leading());
        let name = attempt!(results, text("id", params.get_id()));
        let id = attempt!(results, leader.core().find_task(&name));
        let grace = params.get_has_grace().then(|| Millis(params.get_grace_ms()));
        attempt!(
            results,
            leader.ask(|ticket| Input::Kill { ticket, id, grace }).await
        );
        Ok(())
    }

    async fn task(
        self: CapRc<Self>,
        params: operator::TaskParams,
        mut results: operator::TaskResults,
    ) -> Result<(), capnp::Error> {
        let leader = attempt!(results, self.leading());
        let name = attempt!(results, text("id", params.get()?.get_id_or_name()));
        let core = leader.core();
        let id = attempt!(results, core.find_task(&name));
        if let Some(view) = core.task(&id) {
            wire::master::encode_task(&view, results.get().init_task());
        }
        Ok(())
    }

    async fn tasks(
        self: CapRc<Self>,
        params: operator::TasksParams,
        mut results: operator::TasksResults,
    ) -> Result<(), capnp::Error> {
        let leader = attempt!(results, self.leading());
        let after = attempt!(results, text("after", params.get()?.get_after()));
        let after = match after.is_empty() {
            true => None,
            false => Some(attempt!(
                results,
                wire::master::decode_id(Ok(after.as_str().into()))
            )),
        };
        let core = leader.core();
        let page: Vec<_> = core.tasks_after(after.as_ref()).take(PAGE).collect();
        results.get().set_more(page.len() == PAGE);
        let mut list = results.get().init_tasks(page.len() as u32);
        for (at, view) in (0..).zip(&page) {
            wire::master::encode_task(view, list.reborrow().get(at));
        }
        Ok(())
    }

    async fn agents(
        self: CapRc<Self>,
        params: operator::AgentsParams,
        mut results: operator::AgentsResults,
    ) -> Result<(), capnp::Error> {
        let leader = attempt!(results, self.leading());
        let after = attempt!(results, text("after", params.get()?.get_after()));
        let after = (!after.is_empty()).then_some(AgentId(after));
        let core = leader.core();
        let page: Vec<_> = core.agents_after(after.as_ref()).take(PAGE).collect();
        results.get().set_more(page.len() == PAGE);
        let mut list = results.get().init_agents(page.len() as u32);
        for (at, view) in (0..).zip(&page) {
            wire::master::encode_agent(view, list.reborrow().get(at));
        }
        Ok(())
    }

    async fn leader(
        self: CapRc<Self>,
        _params: operator::LeaderParams,
        mut results: operator::LeaderResults,
    ) -> Result<(), capnp::Error> {
        let leader = attempt!(results, self.leading());
        wire::master::encode_leader(&leader.view, results.get().init_leader());
        Ok(())
    }

    async fn reach(
        self: CapRc<Self>,
        params: operator::ReachParams,
        mut results: operator::ReachResults,
    ) -> Result<(), capnp::Error> {
        let leader = attempt!(results, self.leading());
        let name = attempt!(results, text("id", params.get()?.get_id_or_name()));
        let id = attempt!(results, leader.core().find_task(&name));
        let away = || {
            let fault = Fault::new(
                FaultKind::Unavailable,
                format!("the agent of task {id} is not connected"),
            );
            fault.remedy("see it: bulkhead agents")
        };
        let orders = attempt!(results, leader.orders_for(&id).ok_or_else(away));
        let mut request = orders.reach_request();
        request.get().set_term(leader.view.term);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        attempt!(results, wire::fault::check(answer.get_fault()));
        results.get().set_id(id.as_str());
        results.get().set_agent(answer.get_agent()?);
        Ok(())
    }

    async fn mark_gone(
        self: CapRc<Self>,
        params: operator::MarkGoneParams,
        mut results: operator::MarkGoneResults,
    ) -> Result<(), capnp::Error> {
        let leader = attempt!(results, self.leading());
        let name = attempt!(results, text("agent", params.get()?.get_agent()));
        let agent = attempt!(results, leader.core().find_agent(&name));
        attempt!(
            results,
            leader.ask(|ticket| Input::MarkGone { ticket, agent }).await
        );
        Ok(())
    }

    async fn set_active(
        self: CapRc<Self>,
        params: operator::SetActiveParams,
        mut results: operator::SetActiveResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let leader = attempt!(results, self.leading());
        let name = attempt!(results, text("agent", params.get_agent()));
        let agent = attempt!(results, leader.core().find_agent(&name));
        let active = params.get_active();
        let asked = leader.ask(|ticket| Input::SetActive {
            ticket,
            agent,
            active,
        });
        attempt!(results, asked.await);
        Ok(())
    }

    async fn drain(
        self: CapRc<Self>,
        params: operator::DrainParams,
        mut results: operator::DrainResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let leader = attempt!(results, self.leading());
        let name = attempt!(results, text("agent", params.get_agent()));
        let agent = attempt!(results, leader.core().find_agent(&name));
        let grace = params.get_has_grace().then(|| Millis(params.get_grace_ms()));
        let mark_gone = params.get_mark_gone();
        let asked = leader.ask(|ticket| Input::Drain {
            ticket,
            agent,
            grace,
            mark_gone,
        });
        attempt!(results, asked.await);
        Ok(())
    }
}
