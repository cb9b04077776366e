//! The HTTP side: Mesos' names and shapes, and Prometheus' text form.

use std::rc::{Rc, Weak};

use api::master::{self as json, Standing};
use net::http::{Method, Request, Response, StatusCode, header};
use serde_json::Value;

use crate::leader::Leader;
use crate::server::Shell;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = net::metrics::PROMETHEUS_CONTENT_TYPE;
const INDEX: &str =
    "/health /redirect /state /slaves /tasks /version /metrics /metrics/snapshot /registrar(1)/registry\n";
/// Tasks of one answer unless the request says otherwise, as Mesos.
const TASKS: usize = 100;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page<'a> {
    Index,
    Health,
    Redirect,
    Version,
    Snapshot,
    Prometheus,
    State,
    Slaves,
    Tasks,
    Registry,
    Unknown(&'a str),
}

/// Takes a URL's path as it was sent: below Mesos' name for its process or not, with its old ending or not.
pub fn page(path: &str) -> Page<'_> {
    let path = path.trim_end_matches('/');
    let path = path
        .strip_prefix("/master")
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(path);
    match path.strip_suffix(".json").unwrap_or(path) {
        "" => Page::Index,
        "/health" => Page::Health,
        "/redirect" => Page::Redirect,
        "/version" => Page::Version,
        "/metrics/snapshot" | "/stats" => Page::Snapshot,
        "/metrics" => Page::Prometheus,
        "/state" => Page::State,
        "/slaves" => Page::Slaves,
        "/tasks" => Page::Tasks,
        "/registrar(1)/registry" => Page::Registry,
        _ => Page::Unknown(path),
    }
}

pub async fn handle(shell: Weak<Shell>, request: Request) -> Response {
    let Some(shell) = shell.upgrade() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "this master stops\n");
    };
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            &format!("{method} is not served here; use GET\n"),
        );
    }
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    match page(path) {
        Page::Index => text(StatusCode::OK, INDEX),
        Page::Health => text(StatusCode::OK, ""),
        Page::Version => answer(&json::version(crate::VERSION, shell.started_at_ms), query),
        Page::Snapshot => answer(&json::snapshot(&metrics(&shell)), query),
        Page::Prometheus => net::http::text(StatusCode::OK, PROMETHEUS, json::prometheus(&metrics(&shell))),
        Page::Redirect => redirect(&shell, ""),
        Page::Unknown(path) => text(
            StatusCode::NOT_FOUND,
            &format!("nothing is served at {path}\n{INDEX}"),
        ),
        page => match shell.leader() {
            Some(leader) => answer(&of_leader(&shell, &leader, page, query), query),
            None => redirect(
                &shell,
                request.uri().path_and_query().map_or("", |whole| whole.as_str()),
            ),
        },
    }
}

fn of_leader(shell: &Shell, leader: &Leader, page: Page<'_>, query: &str) -> Value {
    match page {
        Page::Slaves => json::slaves(&leader.core().agents_after(None).collect::<Vec<_>>()),
        Page::Tasks => {
            let number = |key, default| {
                parameter(query, key)
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(default)
            };
            let (limit, offset) = (number("limit", TASKS), number("offset", 0));
            let ascending = parameter(query, "order") == Some("asc");
            let only = parameter(query, "task_id");
            let mut tasks: Vec<_> = leader
                .core()
                .tasks_after(None)
                .filter(|task| only.is_none_or(|id| task.id.as_str() == id))
                .collect();
            tasks.sort_by_key(|task| task.statuses.first().map_or(0, |status| status.at_ms));
            if !ascending {
                tasks.reverse();
            }
            let shown: Vec<_> = tasks.into_iter().skip(offset).take(limit).collect();
            json::tasks(&shown)
        }
        Page::Registry => serde_json::to_value(&*leader.registrar.registry())
            .unwrap_or_else(|error| Value::String(format!("cannot be shown as JSON: {error}"))),
        _ => {
            let core = leader.core();
            let agents: Vec<_> = core.agents_after(None).collect();
            let tasks: Vec<_> = core.tasks_after(None).collect();
            let standing = Standing {
                info: &shell.info,
                cluster: shell.config.flags.cluster.as_deref(),
                started_at_ms: shell.started_at_ms,
                leader: &leader.view,
            };
            json::state(&standing, &agents, &tasks)
        }
    }
}

/// To the same page of the leader, without a scheme: as Mesos, so that a proxy's own is kept.
fn redirect(shell: &Shell, rest: &str) -> Response {
    let Some(address) = shell.leader_address() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n");
    };
    let mut response = text(StatusCode::TEMPORARY_REDIRECT, "");
    if let Ok(place) = header::HeaderValue::from_str(&format!("//{address}{rest}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

fn parameter<'a>(query: &'a str, wanted: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == wanted).map(|(_, value)| value)
}

fn text(status: StatusCode, body: &str) -> Response {
    net::http::text(status, TEXT, body.to_owned())
}

fn answer(value: &Value, query: &str) -> Response {
    match parameter(query, "jsonp").map(|callback| api::mesos::jsonp(callback, value)) {
        None => net::http::text(StatusCode::OK, JSON, value.to_string()),
        Some(Ok(script)) => net::http::text(StatusCode::OK, "text/javascript", script),
        Some(Err(fault)) => text(StatusCode::BAD_REQUEST, &format!("{fault}\n")),
    }
}

fn metrics(shell: &Rc<Shell>) -> Vec<(String, f64, bool)> {
    let uptime = net::wall_ms().saturating_sub(shell.started_at_ms) as f64 / 1000.0;
    let leader = shell.leader();
    let core = leader.as_ref().map(|leader| leader.core());
    let registrar = leader.as_ref().map(|leader| {
        let times = leader.registrar.store_times();
        json::RegistrarMetrics {
            queued: leader.registrar.queued(),
            stores: times.count,
            last_store: times.last,
            longest_store: times.longest,
            fetch: times.fetch,
        }
    });
    let of_core = core.as_ref().map(|core| {
        let counters = &core.counters;
        json::CoreMetrics {
            agents: model::task::AgentState::ALL
                .map(|state| (state, core.count_agents(state)))
                .into(),
            tasks: core.count_tasks(),
            ended: counters.ended.clone(),
            used: core
                .agents_after(None)
                .map(|agent| agent.used)
                .fold(Default::default(), model::task::Need::plus),
            total: core
                .agents_after(None)
                .map(|agent| model::task::Need::all(&agent.record.resources))
                .fold(Default::default(), model::task::Need::plus),
            counters: vec![
                ("master/slave_registrations", counters.registrations),
                ("master/slave_reregistrations", counters.reregistrations),
                (
                    "master/slave_unreachable_scheduled",
                    counters.unreachable_scheduled,
                ),
                (
                    "master/slave_unreachable_completed",
                    counters.unreachable_completed,
                ),
                ("master/slave_unreachable_canceled", counters.unreachable_canceled),
                ("master/slave_removals", counters.unreachable_completed),
                (
                    "master/slave_removals/reason_unhealthy",
                    counters.unreachable_completed,
                ),
                ("master/recovery_slave_removals", counters.recovery_removals),
                ("master/messages_register_slave", counters.registrations),
                ("master/messages_reregister_slave", counters.reregistrations),
                ("master/messages_launch_tasks", counters.launches),
                ("master/messages_kill_task", counters.kills),
                (
                    "master/messages_status_update",
                    counters.updates + counters.invalid_updates,
                ),
                ("master/valid_status_updates", counters.updates),
                ("master/invalid_status_updates", counters.invalid_updates),
            ],
        }
    });
    json::metrics(uptime, of_core.as_ref(), registrar.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_spellings_lead_to_the_same_page() {
        for path in [
            "/state",
            "/state/",
            "/state.json",
            "/master/state",
            "/master/state.json",
        ] {
            assert_eq!(page(path), Page::State, "{path}");
        }
        assert_eq!(page("/registrar(1)/registry"), Page::Registry);
        assert_eq!(page("/"), Page::Index);
        assert_eq!(page("/masterly"), Page::Unknown("/masterly"));
        assert_eq!(page("/redirect/x"), Page::Unknown("/redirect/x"));
        assert_eq!(parameter("a=1&limit=5", "limit"), Some("5"));
    }
}
