//! The HTTP server: Mesos' names and shapes, and Prometheus' text form.

use std::fmt::Write as _;
use std::rc::Rc;

use api::mesos;
use model::{ContainerId, ContainerStatus, Fault, Pressure, Usage};
use net::http::{Method, Request, Response, StatusCode};

use crate::launch::failed;
use crate::shell::Shell;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = net::metrics::PROMETHEUS_CONTENT_TYPE;

/// What is served; everything below one path and below one name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page<'a> {
    Index,
    Health,
    Version,
    Snapshot,
    Statistics,
    Containers,
    State,
    Prometheus,
    /// Nothing is served there.
    Unknown(&'a str),
}

/// All that is read out of a request's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    pub page: Page<'a>,
    /// The function that the answer is to be a call of.
    pub jsonp: Option<&'a str>,
}

/// Takes a URL's path and query as they were sent. An empty path and one of slashes only are the index.
pub fn asked<'a>(path: &'a str, query: Option<&'a str>) -> Asked<'a> {
    // Mesos serves everything below its process' name too.
    let path = path.strip_prefix("/slave(1)").unwrap_or(path);
    let page = match path.trim_end_matches('/') {
        "" => Page::Index,
        "/health" => Page::Health,
        "/version" => Page::Version,
        "/metrics/snapshot" | "/stats.json" => Page::Snapshot,
        "/monitor/statistics" | "/monitor/statistics.json" => Page::Statistics,
        "/containers" => Page::Containers,
        "/state" | "/state.json" => Page::State,
        "/metrics" => Page::Prometheus,
        other => Page::Unknown(other),
    };
    let mut pairs = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.split_once('='));
    let jsonp = pairs.find(|(key, _)| *key == "jsonp").map(|(_, value)| value);
    Asked { page, jsonp }
}

pub(crate) async fn handle(shell: Rc<Shell>, request: Request) -> Response {
    shell.metrics.http_requests.increment();
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return net::http::text(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            format!("{method} is not served here; use GET\n"),
        );
    }
    let Asked { page, jsonp } = asked(request.uri().path(), request.uri().query());
    let json = |value: Result<serde_json::Value, Fault>| answer(value, jsonp);
    match page {
        Page::Health => net::http::text(StatusCode::OK, TEXT, String::new()),
        Page::Version => json(Ok(mesos::version(&crate::about::info(&shell)))),
        Page::Snapshot => json(Ok(mesos::metrics_snapshot(&crate::metrics::snapshot(&shell)))),
        Page::Statistics => of_all(&shell, jsonp, statistics).await,
        Page::Containers => of_all(&shell, jsonp, containers).await,
        Page::State => {
            let hostname = kernel::system::host_name();
            json(Ok(mesos::state(
                &crate::about::info(&shell),
                &hostname,
                shell.host.cpus,
                shell.host.memory,
            )))
        }
        Page::Prometheus => match prometheus(&shell).await {
            Ok(text) => net::http::text(StatusCode::OK, PROMETHEUS, text),
            Err(fault) => broken(&fault),
        },
        Page::Index => net::http::text(StatusCode::OK, TEXT, INDEX.to_owned()),
        Page::Unknown(path) => net::http::text(
            StatusCode::NOT_FOUND,
            TEXT,
            format!("nothing is served at {path}\n{INDEX}"),
        ),
    }
}

const INDEX: &str = "/health /version /metrics /metrics/snapshot /monitor/statistics /containers\n";

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

/// A running container with its sample.
type Measured = (ContainerStatus, Option<Usage>);

/// Containers looked up between two turns of the loop.
const LOOKED_UP: usize = 128;

/// Running containers in the order of their ids.
async fn measured(shell: &Rc<Shell>) -> Result<Vec<Measured>, Fault> {
    let mut samples: std::collections::HashMap<ContainerId, Usage> =
        crate::statistics::sample(shell, &[]).await?.into_iter().collect();
    let ids: Vec<ContainerId> = shell.core().list(false).map(|status| status.id.clone()).collect();
    let mut told = Vec::with_capacity(ids.len());
    for ids in ids.chunks(LOOKED_UP) {
        for id in ids {
            let Some(status) = shell.core().status(id).cloned() else {
                continue;
            };
            // Where nothing limits a container, Mesos tells what the host has.
            let usage = samples.remove(id).map(|mut usage| {
                usage.cpus_limit.get_or_insert(f64::from(shell.host.cpus));
                usage.mem_limit_bytes.get_or_insert(shell.host.memory.get());
                usage
            });
            told.push((status, usage));
        }
        net::yield_now().await;
    }
    Ok(told)
}

/// A page of all containers. Of a thousand it takes tens of milliseconds to write: a worker does.
async fn of_all(
    shell: &Rc<Shell>,
    jsonp: Option<&str>,
    shape: fn(&[Measured]) -> serde_json::Value,
) -> Response {
    let jsonp = jsonp.map(str::to_owned);
    let written = match measured(shell).await {
        Ok(all) => {
            shell
                .pool
                .run(move || answer(Ok(shape(&all)), jsonp.as_deref()))
                .await
        }
        Err(fault) => return broken(&fault),
    };
    written.unwrap_or_else(|error| broken(&failed(&error)))
}

fn statistics(all: &[Measured]) -> serde_json::Value {
    // A container whose statistics failed wholly is left out, as in Mesos.
    let told = all
        .iter()
        .filter_map(|(status, usage)| Some((status, usage.as_ref()?)));
    told.map(|(status, usage)| mesos::statistics(status, usage))
        .collect()
}

fn containers(all: &[Measured]) -> serde_json::Value {
    let told = all.iter();
    told.map(|(status, usage)| mesos::container(status, usage.as_ref()))
        .collect()
}

async fn prometheus(shell: &Rc<Shell>) -> Result<String, Fault> {
    let all = measured(shell).await?;
    let own = crate::metrics::snapshot(shell);
    let written = shell.pool.run(move || prometheus_text(own, &all)).await;
    written.map_err(|error| failed(&error))
}

fn prometheus_text(own: Vec<(String, f64)>, all: &[Measured]) -> String {
    let mut text = String::with_capacity(4096 + all.len() * 2048);
    for (name, value) in own {
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
        for (status, usage) in all {
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
    text
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
    ("disk_used_bytes", "gauge", |u| {
        u.disk_used_bytes.map(|v| v as f64)
    }),
    ("disk_limit_bytes", "gauge", |u| {
        u.disk_limit_bytes.map(|v| v as f64)
    }),
    ("network_receive_bytes_total", "counter", |u| {
        u.net_rx_bytes.map(|v| v as f64)
    }),
    ("network_receive_packets_total", "counter", |u| {
        u.net_rx_packets.map(|v| v as f64)
    }),
    ("network_receive_errors_total", "counter", |u| {
        u.net_rx_errors.map(|v| v as f64)
    }),
    ("network_receive_dropped_total", "counter", |u| {
        u.net_rx_dropped.map(|v| v as f64)
    }),
    ("network_transmit_bytes_total", "counter", |u| {
        u.net_tx_bytes.map(|v| v as f64)
    }),
    ("network_transmit_packets_total", "counter", |u| {
        u.net_tx_packets.map(|v| v as f64)
    }),
    ("network_transmit_errors_total", "counter", |u| {
        u.net_tx_errors.map(|v| v as f64)
    }),
    ("network_transmit_dropped_total", "counter", |u| {
        u.net_tx_dropped.map(|v| v as f64)
    }),
    ("network_refused_total", "counter", |u| {
        u.net_rx_bytes.map(|_| u.net_drops.values().sum::<u64>() as f64)
    }),
    ("network_transmit_limited_bytes_total", "counter", |u| {
        u.net_tx_limited_bytes.map(|v| v as f64)
    }),
    ("network_receive_limited_bytes_total", "counter", |u| {
        u.net_rx_limited_bytes.map(|v| v as f64)
    }),
    ("network_transmit_queue_delay_seconds", "gauge", |u| {
        u.net_tx_queue_delay_microsecs.map(|v| v as f64 / 1e6)
    }),
    ("network_receive_queue_delay_seconds", "gauge", |u| {
        u.net_rx_queue_delay_microsecs.map(|v| v as f64 / 1e6)
    }),
    ("network_transmit_limit_bytes", "gauge", |u| {
        u.net_tx_rate_limit.map(|v| v as f64)
    }),
    ("network_receive_limit_bytes", "gauge", |u| {
        u.net_rx_rate_limit.map(|v| v as f64)
    }),
    ("tcp_connections", "gauge", |u| u.net_tcp_active_connections),
    ("tcp_time_wait_connections", "gauge", |u| {
        u.net_tcp_time_wait_connections
    }),
    ("tcp_retransmits_total", "counter", |u| {
        u.net_tcp_retransmits.map(|v| v as f64)
    }),
    ("tcp_rtt_p50_seconds", "gauge", |u| {
        u.net_tcp_rtt_microsecs_p50.map(|v| v / 1e6)
    }),
    ("tcp_rtt_p99_seconds", "gauge", |u| {
        u.net_tcp_rtt_microsecs_p99.map(|v| v / 1e6)
    }),
    // cAdvisor's words: waiting, at least one task; stalled, all of them.
    ("pressure_cpu_waiting_seconds_total", "counter", |u| {
        waiting(u.cpu_pressure)
    }),
    ("pressure_cpu_stalled_seconds_total", "counter", |u| {
        stalled(u.cpu_pressure)
    }),
    ("pressure_memory_waiting_seconds_total", "counter", |u| {
        waiting(u.mem_pressure)
    }),
    ("pressure_memory_stalled_seconds_total", "counter", |u| {
        stalled(u.mem_pressure)
    }),
    ("pressure_io_waiting_seconds_total", "counter", |u| {
        waiting(u.io_pressure)
    }),
    ("pressure_io_stalled_seconds_total", "counter", |u| {
        stalled(u.io_pressure)
    }),
];

fn waiting(pressure: Option<Pressure>) -> Option<f64> {
    Some(pressure?.some.total_secs)
}

fn stalled(pressure: Option<Pressure>) -> Option<f64> {
    Some(pressure?.full?.total_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent of Mesos died of some of these.
    #[test]
    fn odd_paths_have_an_answer() {
        for path in ["", "/", "//", "///", "/slave(1)", "/slave(1)/", "/slave(1)//"] {
            assert_eq!(asked(path, None).page, Page::Index, "{path:?}");
        }
        for path in [
            "*",
            "/slave(1)health",
            "/health/x",
            "health",
            "/%2e%2e/health",
            "/metrics\0",
        ] {
            assert!(matches!(asked(path, None).page, Page::Unknown(_)), "{path:?}");
        }
        assert_eq!(asked("/slave(1)/health//", None).page, Page::Health);
    }

    #[test]
    fn the_first_function_named_is_taken() {
        for (query, function) in [
            ("jsonp=f", Some("f")),
            ("a=1&jsonp=f&jsonp=g", Some("f")),
            ("jsonp=", Some("")),
            ("jsonp", None),
            ("", None),
            ("&&=&", None),
        ] {
            assert_eq!(asked("/state", Some(query)).jsonp, function, "{query:?}");
        }
    }
}
