//! Counters and gauges under two names: the Prometheus one and the one that Mesos' `/metrics/snapshot` has.
//!
//! A [`Counter`] or [`Gauge`] may be kept by any thread; the [`Registry`] lives on the loop and reads them when asked.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The content type of [`Registry::prometheus`].
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a metric is called.
#[derive(Debug, Clone)]
pub struct Name {
    /// `bulkhead_launches_total`, or with labels: `bulkhead_launches_total{result="ok"}`. The caller escapes label values.
    pub prometheus: String,
    /// `slave/tasks_failed`; none if Mesos has no such metric.
    pub snapshot: Option<String>,
    pub help: &'static str,
}

impl Name {
    pub fn new(prometheus: impl Into<String>, snapshot: Option<&str>, help: &'static str) -> Self {
        Self {
            prometheus: prometheus.into(),
            snapshot: snapshot.map(str::to_owned),
            help,
        }
    }

    fn family(&self) -> &str {
        self.prometheus
            .split_once('{')
            .map_or(self.prometheus.as_str(), |(family, _)| family)
    }
}

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

enum Reader {
    Counter(Counter),
    Gauge(Gauge),
    /// Read from where the number lives, when asked.
    Function(&'static str, Box<dyn Fn() -> f64>),
}

impl Reader {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Function(kind, _) => kind,
        }
    }

    fn value(&self) -> f64 {
        match self {
            // Exact up to 2^53, as for every JSON reader.
            Self::Counter(counter) => counter.value() as f64,
            Self::Gauge(gauge) => gauge.value(),
            Self::Function(_, function) => function(),
        }
    }
}

/// All metrics of a program. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry(Rc<RefCell<Vec<(Name, Reader)>>>);

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn counter(&self, name: Name) -> Counter {
        let counter = Counter::default();
        self.0.borrow_mut().push((name, Reader::Counter(counter.clone())));
        counter
    }

    pub fn gauge(&self, name: Name) -> Gauge {
        let gauge = Gauge::default();
        self.0.borrow_mut().push((name, Reader::Gauge(gauge.clone())));
        gauge
    }

    /// A gauge that is computed when asked. The function must not use the registry.
    pub fn gauge_with(&self, name: Name, function: impl Fn() -> f64 + 'static) {
        self.0
            .borrow_mut()
            .push((name, Reader::Function("gauge", Box::new(function))));
    }

    /// A counter that somebody else keeps.
    pub fn counter_with(&self, name: Name, function: impl Fn() -> f64 + 'static) {
        self.0
            .borrow_mut()
            .push((name, Reader::Function("counter", Box::new(function))));
    }

    /// Prometheus text exposition, families in order of their first registration, each with its samples together.
    pub fn prometheus(&self) -> String {
        let metrics = self.0.borrow();
        let mut families: Vec<(&str, Vec<&(Name, Reader)>)> = Vec::new();
        for metric in metrics.iter() {
            let family = metric.0.family();
            match families.iter_mut().find(|(name, _)| *name == family) {
                Some((_, members)) => members.push(metric),
                None => families.push((family, vec![metric])),
            }
        }
        let mut text = String::new();
        for (family, members) in families {
            let Some((name, reader)) = members.first() else {
                continue;
            };
            let help = name.help.replace('\\', "\\\\").replace('\n', "\\n");
            // Writing to a String does not fail.
            let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {}", reader.kind());
            for (name, reader) in members {
                let _ = writeln!(text, "{} {}", name.prometheus, prometheus_number(reader.value()));
            }
        }
        text
    }

    /// Name and number of each metric that Mesos has a name for, sorted; not finite ones are left out, as JSON has none.
    pub fn snapshot(&self) -> Vec<(String, f64)> {
        let metrics = self.0.borrow();
        let mut values: Vec<(String, f64)> = metrics
            .iter()
            .filter_map(|(name, reader)| Some((name.snapshot.clone()?, reader.value())))
            .filter(|(_, value)| value.is_finite())
            .collect();
        values.sort_by(|left, right| left.0.cmp(&right.0));
        values
    }
}

fn prometheus_number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 {
            "+Inf".to_owned()
        } else {
            "-Inf".to_owned()
        }
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_expositions_show_the_same_numbers() {
        let registry = Registry::new();
        let ok = registry.counter(Name::new(
            "launches_total{result=\"ok\"}",
            Some("slave/ok"),
            "launches by result",
        ));
        let uptime = registry.gauge(Name::new(
            "uptime_seconds",
            Some("slave/uptime_secs"),
            "since the start",
        ));
        let failed = registry.counter(Name::new(
            "launches_total{result=\"failed\"}",
            None,
            "launches by result",
        ));
        registry.gauge_with(Name::new("queue", Some("slave/queue"), "waiting"), || f64::NAN);
        ok.add(2);
        failed.increment();
        uptime.set(1.5);
        assert_eq!(
            registry.prometheus(),
            "# HELP launches_total launches by result\n# TYPE launches_total counter\nlaunches_total{result=\"ok\"} 2\n\
             launches_total{result=\"failed\"} 1\n# HELP uptime_seconds since the start\n# TYPE uptime_seconds gauge\n\
             uptime_seconds 1.5\n# HELP queue waiting\n# TYPE queue gauge\nqueue NaN\n"
        );
        assert_eq!(
            registry.snapshot(),
            vec![
                ("slave/ok".to_owned(), 2.0),
                ("slave/uptime_secs".to_owned(), 1.5)
            ]
        );
    }
}
