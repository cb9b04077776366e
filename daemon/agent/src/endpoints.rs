//! The HTTP server: Mesos' names and shapes, and Prometheus' text form.

use std::fmt::Write as _;
use std::rc::Rc;

use api::mesos;
use model::{ContainerId, ContainerStatus, Fault, Usage};
use net::http::{Method, Request, Response, StatusCode};

use crate::shell::Shell;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = net::metrics::PROMETHEUS_CONTENT_TYPE;

pub async fn handle(shell: Rc<Shell>, request: Request) -> Response {
    shell.metrics.http_requests.increment();
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return net::http::text(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            format!("{method} is not served here; use GET\n"),
        );
    }
    let path = request.uri().path().to_owned();
    let jsonp = query(&request, "jsonp");
    let json = |value: Result<serde_json::Value, Fault>| answer(value, jsonp.as_deref());
    // Mesos serves everything below its process' name too.
    let path = path.strip_prefix("/slave(1)").unwrap_or(&path);
    match path.trim_end_matches('/') {
        "/health" => net::http::text(StatusCode::OK, TEXT, String::new()),
        "/version" => json(Ok(mesos::version(&crate::about::info(&shell)))),
        "/metrics/snapshot" | "/stats.json" => {
            json(Ok(mesos::metrics_snapshot(&crate::metrics::snapshot(&shell))))
        }
        "/monitor/statistics" | "/monitor/statistics.json" => json(statistics(&shell).await),
        "/containers" => json(containers(&shell).await),
        "/state" | "/state.json" => {
            let hostname = kernel::system::host_name();
            json(Ok(mesos::state(
                &crate::about::info(&shell),
                &hostname,
                shell.host.cpus,
                shell.host.memory,
            )))
        }
        "/metrics" => match prometheus(&shell).await {
            Ok(text) => net::http::text(StatusCode::OK, PROMETHEUS, text),
            Err(fault) => broken(&fault),
        },
        "" => net::http::text(StatusCode::OK, TEXT, INDEX.to_owned()),
        other => net::http::text(
            StatusCode::NOT_FOUND,
            TEXT,
            format!("nothing is served at {other}\n{INDEX}"),
        ),
    }
}

const INDEX: &str = "/health /version /metrics /metrics/snapshot /monitor/statistics /containers\n";

fn query(request: &Request, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| v.to_owned())
}

fn answer(value: Result<serde_json::Value, Fault>, jsonp: Option<&str>) -> Response {
    match value {
        Err(fault) => broken(&fault),
        Ok(value) => match jsonp.map(|callback| mesos::jsonp(callback, &value)) {
            None => net::http::text(StatusCode::OK, JSON, value.to_string()),
            Some(Ok(script)) => net::http::text(StatusCode::OK, "text/javascript", script),
            Some(Err(fault)) => net::http::text(StatusCode::BAD_REQUEST, TEXT, format!("{fault}\n")),
        },
    }
}

fn broken(fault: &Fault) -> Response {
    net::http::text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{fault}\n"))
}

/// Running containers with their samples, in the order of their ids.
async fn measured(shell: &Rc<Shell>) -> Result<Vec<(ContainerStatus, Option<Usage>)>, Fault> {
    let mut samples: std::collections::HashMap<ContainerId, Usage> =
        crate::statistics::sample(shell, &[]).await?.into_iter().collect();
    let core = shell.core();
    let measured = core
        .list(false)
        .map(|status| (status.clone(), samples.remove(&status.id)));
    // Where nothing limits a container, Mesos tells what the host has.
    let told = measured.map(|(status, usage)| {
        let usage = usage.map(|mut usage| {
            usage.cpus_limit.get_or_insert(f64::from(shell.host.cpus));
            usage.mem_limit_bytes.get_or_insert(shell.host.memory.get());
            usage
        });
        (status, usage)
    });
    Ok(told.collect())
}

async fn statistics(shell: &Rc<Shell>) -> Result<serde_json::Value, Fault> {
    let all = measured(shell).await?;
    // A container whose statistics failed wholly is left out, as in Mesos.
    Ok(all
        .iter()
        .filter_map(|(status, usage)| Some(mesos::statistics(status, usage.as_ref()?)))
        .collect())
}

async fn containers(shell: &Rc<Shell>) -> Result<serde_json::Value, Fault> {
    let all = measured(shell).await?;
    Ok(all
        .iter()
        .map(|(status, usage)| mesos::container(status, usage.as_ref()))
        .collect())
}

async fn prometheus(shell: &Rc<Shell>) -> Result<String, Fault> {
    let all = measured(shell).await?;
    let mut text = String::with_capacity(4096 + all.len() * 2048);
    for (name, value) in crate::metrics::snapshot(shell) {
        let name = name.replace(['/', '.'], "_");
        let name = if name.starts_with("bulkhead_") {
            name
        } else {
            format!("bulkhead_{name}")
        };
        let _ = writeln!(text, "# TYPE {name} gauge\n{name} {value}");
    }
    for (name, kind, read) in SERIES {
        let _ = writeln!(text, "# TYPE bulkhead_container_{name} {kind}");
        for (status, usage) in &all {
            let Some(value) = usage.as_ref().and_then(read) else {
                continue;
            };
            let label = status.name.as_ref().map_or("", |n| n.as_str());
            // Ids and names hold nothing that would have to be escaped.
            let _ = writeln!(
                text,
                "bulkhead_container_{name}{{id=\"{}\",name=\"{label}\"}} {value}",
                status.id
            );
        }
    }
    Ok(text)
}

type Series = (&'static str, &'static str, fn(&Usage) -> Option<f64>);

const SERIES: &[Series] = &[
    ("cpu_user_seconds_total", "counter", |u| u.cpus_user_time_secs),
    ("cpu_system_seconds_total", "counter", |u| u.cpus_system_time_secs),
    ("cpu_limit", "gauge", |u| u.cpus_limit),
    ("cpu_periods_total", "counter", |u| {
        u.cpus_nr_periods.map(|v| v as f64)
    }),
    ("cpu_throttled_periods_total", "counter", |u| {
        u.cpus_nr_throttled.map(|v| v as f64)
    }),
    ("cpu_throttled_seconds_total", "counter", |u| {
        u.cpus_throttled_time_secs
    }),
    ("memory_bytes", "gauge", |u| u.mem_total_bytes.map(|v| v as f64)),
    ("memory_rss_bytes", "gauge", |u| u.mem_rss_bytes.map(|v| v as f64)),
    ("memory_cache_bytes", "gauge", |u| {
        u.mem_cache_bytes.map(|v| v as f64)
    }),
    ("memory_peak_bytes", "gauge", |u| {
        u.mem_peak_bytes.map(|v| v as f64)
    }),
    ("memory_limit_bytes", "gauge", |u| {
        u.mem_limit_bytes.map(|v| v as f64)
    }),
    ("memory_limit_hits_total", "counter", |u| {
        u.mem_limit_hits.map(|v| v as f64)
    }),
    ("oom_kills_total", "counter", |u| {
        u.mem_oom_kills.map(|v| v as f64)
    }),
    ("processes", "gauge", |u| u.processes.map(f64::from)),
    ("threads", "gauge", |u| u.threads.map(f64::from)),
    ("pids_limit", "gauge", |u| u.pids_limit.map(|v| v as f64)),
    ("forks_refused_total", "counter", |u| {
        u.pids_refused.map(|v| v as f64)
    }),
    ("io_read_bytes_total", "counter", |u| {
        u.io_read_bytes.map(|v| v as f64)
    }),
    ("io_written_bytes_total", "counter", |u| {
        u.io_write_bytes.map(|v| v as f64)
    }),
];
