//! What a benchmark says: a table for a person, one JSON object a line for a script.
//!
//! The JSON keys `bench`, `metric`, `value`, `unit`, `goal` and the metric names are a stable interface. `better` tells
//! which side of the goal is the good one. `value` is null when it could not be measured (a peer is not installed).

use std::io::Write;

use crate::sample::Sample;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn met_by(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => value >= goal,
            Goal::AtMost(goal) => value <= goal,
        }
    }

    fn number(self) -> f64 {
        match self {
            Goal::AtLeast(goal) | Goal::AtMost(goal) => goal,
        }
    }
}

struct Metric {
    name: String,
    value: Option<f64>,
    unit: &'static str,
    goal: Goal,
}

/// One benchmark's results, printed as they come.
pub struct Report {
    bench: &'static str,
    json: bool,
    metrics: Vec<Metric>,
}

impl Report {
    pub fn new(bench: &'static str, json: bool) -> Self {
        Self {
            bench,
            json,
            metrics: Vec::new(),
        }
    }

    /// A line for the person who waits; goes where it does not mix with the results.
    pub fn note(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// A metric; `None` when what it compares with is not there.
    pub fn metric(&mut self, name: impl Into<String>, value: Option<f64>, unit: &'static str, goal: Goal) {
        let metric = Metric {
            name: name.into(),
            value: value.filter(|v| v.is_finite()),
            unit,
            goal,
        };
        if self.json {
            // Written out, so that the keys stand in the order that their readers know.
            let line = format!(
                r#"{{"bench":"{}","metric":"{}","value":{},"unit":"{}","goal":{},"better":"{}"}}"#,
                self.bench,
                metric.name,
                metric
                    .value
                    .map_or("null".to_string(), |v| ((v * 1000.0).round() / 1000.0)
                        .to_string()),
                metric.unit,
                metric.goal.number(),
                match metric.goal {
                    Goal::AtLeast(_) => "higher",
                    Goal::AtMost(_) => "lower",
                },
            );
            println!("{line}");
            // A reader of the pipe sees each result when it is known, not at the end.
            let _ = std::io::stdout().flush();
        }
        self.metrics.push(metric);
    }

    /// Rows of one interleaved measurement.
    pub fn table(&self, title: &str, unit: &str, rows: &[(&str, &Sample)]) {
        self.note(&format!("\n{title} ({unit})"));
        self.note(&format!(
            "  {:<28} {:>6} {:>12} {:>12} {:>12}",
            "", "n", "min", "median", "p90"
        ));
        for (name, sample) in rows.iter().filter(|(_, sample)| sample.len() > 0) {
            self.note(&format!(
                "  {name:<28} {:>6} {:>12.1} {:>12.1} {:>12.1}",
                sample.len(),
                sample.min(),
                sample.median(),
                sample.quantile(0.9),
            ));
        }
    }

    pub fn finish(self) {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        self.note(&format!(
            "\n{} (load {})",
            self.bench,
            load.split(' ').take(3).collect::<Vec<_>>().join(" ")
        ));
        for metric in &self.metrics {
            let (sign, verdict) = match (metric.goal, metric.value) {
                (Goal::AtLeast(_), Some(v)) => (">=", if metric.goal.met_by(v) { "met" } else { "missed" }),
                (Goal::AtMost(_), Some(v)) => ("<=", if metric.goal.met_by(v) { "met" } else { "missed" }),
                (_, None) => ("  ", "not measured"),
            };
            let value = metric.value.map_or("-".to_string(), |v| format!("{v:.2}"));
            self.note(&format!(
                "  {:<30} {value:>10} {:<8} goal {sign} {:<6} {verdict}",
                metric.name,
                metric.unit,
                metric.goal.number(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_has_a_good_side() {
        assert!(Goal::AtLeast(2.5).met_by(2.5));
        assert!(!Goal::AtLeast(2.5).met_by(2.4));
        assert!(Goal::AtMost(1.5).met_by(1.5));
        assert!(!Goal::AtMost(1.5).met_by(1.6));
    }
}
