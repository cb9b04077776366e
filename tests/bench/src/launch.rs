//! Launch to exit to everything removed, against the floor program, crun, runc, bubblewrap and a bare posix_spawn.
//!
//! Every variant is a process of its own that times itself and takes one command at a time; this one only says whose
//! turn it is. So nobody pays for the size of the caller, and all of them see the same noise.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use crate::agent::RunningAgent;
use crate::floor::{Helper, program};
use crate::peers;
use crate::report::{Goal, Report};
use crate::sample::Sample;

const WARM_UP_ROUNDS: usize = 5;
/// Launches in flight in the throughput rounds.
const IN_FLIGHT: usize = 8;
const KEPT_UP: usize = 1000;

pub struct Options {
    pub quick: bool,
    /// Measure the others only, for instance while the product can not be built.
    pub without_product: bool,
}

struct Variant {
    name: &'static str,
    helper: Helper,
    /// What to say for one launch, and what goes after `many N K`.
    words: String,
    sample: Sample,
}

impl Variant {
    fn new(name: &'static str, helper: Helper, words: String) -> Self {
        Self {
            name,
            helper,
            words,
            sample: Sample::default(),
        }
    }

    fn once(&mut self) -> std::io::Result<f64> {
        let line = if self.words.is_empty() {
            "one".to_string()
        } else {
            format!("one\t{}", self.words)
        };
        Ok(self.helper.ask(&line)? as f64 / 1000.0)
    }

    /// Launches a second with `in_flight` at a time.
    fn rate(&mut self, count: usize, in_flight: usize) -> std::io::Result<f64> {
        let line = match self.words.is_empty() {
            true => format!("many {count} {in_flight}"),
            false => format!("many\t{count}\t{in_flight}\t{}", self.words),
        };
        Ok(count as f64 * 1e9 / self.helper.ask(&line)? as f64)
    }
}

pub fn run(report: &mut Report, options: &Options) -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::Builder::new()
        .prefix("bulkhead-bench-")
        .tempdir_in("/dev/shm")?;
    let agent = if options.without_product {
        None
    } else {
        Some(RunningAgent::start(scratch.path())?)
    };
    for (own_network, suffix) in [(false, ""), (true, "_netns")] {
        measure(
            report,
            options,
            scratch.path(),
            agent.as_ref(),
            own_network,
            suffix,
        )?;
    }
    if let Some(agent) = &agent {
        let mut driver = agent.driver("host")?;
        growth(report, &mut driver)?;
    }
    Ok(())
}

fn measure(
    report: &mut Report,
    options: &Options,
    scratch: &Path,
    agent: Option<&RunningAgent>,
    own_network: bool,
    suffix: &str,
) -> Result<(), Box<dyn Error>> {
    let rounds = if options.quick { 15 } else { 60 };
    let mut variants = variants(scratch, agent, own_network, rounds + WARM_UP_ROUNDS)?;
    report.note(&format!(
        "launch: {rounds} rounds of {} variants, {}",
        variants.len(),
        if own_network {
            "own network namespace"
        } else {
            "host network"
        },
    ));
    for round in 0..WARM_UP_ROUNDS + rounds {
        // Rotating, so that nobody always runs after the same neighbour.
        variants.rotate_left(1);
        for variant in &mut variants {
            let took = variant.once()?;
            if round >= WARM_UP_ROUNDS {
                variant.sample.push(took);
            }
        }
    }
    variants.sort_by(|a, b| a.sample.median().total_cmp(&b.sample.median()));
    let rows: Vec<_> = variants.iter().map(|v| (v.name, &v.sample)).collect();
    report.table(&format!("launch to removed{suffix}"), "us", &rows);
    let median = |name: &str| {
        variants
            .iter()
            .find(|v| v.name == name)
            .map(|v| v.sample.median())
    };
    let over = |name: &str| Some(median(name)? / median("bulkhead")?);
    let floor = if own_network {
        "floor, pooled netns"
    } else {
        "floor"
    };
    let results = [
        ("speedup_vs_crun", over("crun"), Goal::AtLeast(3.0)),
        ("speedup_vs_runc", over("runc"), Goal::AtLeast(7.0)),
        ("speedup_vs_bwrap", over("bwrap"), Goal::AtLeast(1.0)),
        (
            "ratio_to_handwritten",
            over(floor).map(f64::recip),
            Goal::AtMost(1.5),
        ),
    ];
    if agent.is_some() {
        for (name, value, goal) in results {
            report.metric(format!("{name}{suffix}"), value, "ratio", goal);
        }
    }
    throughput(report, options, variants, own_network, suffix)
}

fn variants(
    scratch: &Path,
    agent: Option<&RunningAgent>,
    own_network: bool,
    launches: usize,
) -> Result<Vec<Variant>, Box<dyn Error>> {
    let static_true = program("true");
    let spawner = || Helper::start(&mut Command::new(program("spawn")));
    let floor = |net: &str| -> std::io::Result<Helper> {
        let directory = scratch.join(format!("floor-{net}"));
        std::fs::create_dir_all(&directory)?;
        // On the disk that the product's sandboxes are on.
        let sandboxes = std::env::current_exe()?.with_file_name("bench-floor-sandboxes");
        std::fs::create_dir_all(&sandboxes)?;
        let instance = format!("bulkhead-bench-floor-{net}-{}", std::process::id());
        Helper::start(
            Command::new(program("launch"))
                .env("SANDBOXES", sandboxes)
                .arg(instance)
                .arg(directory)
                .arg(net)
                .arg(&static_true),
        )
    };
    let mut variants = vec![Variant::new(
        "posix_spawn",
        spawner()?,
        static_true.display().to_string(),
    )];
    if own_network {
        variants.push(Variant::new("floor, fresh netns", floor("fresh")?, String::new()));
        let mut pooled = floor("pool")?;
        pooled.ask(&format!("pool {launches}"))?;
        variants.push(Variant::new("floor, pooled netns", pooled, String::new()));
    } else {
        variants.push(Variant::new("floor", floor("host")?, String::new()));
    }
    if let Some(bwrap) = peers::find("bwrap") {
        let words = peers::bwrap_words(&bwrap, &static_true, own_network);
        variants.push(Variant::new("bwrap", spawner()?, words));
    }
    let bundle = peers::write_bundle(scratch, &static_true, own_network)?;
    if let Some(crun) = peers::find("crun") {
        let helper = Helper::start(Command::new(program("spawn")).arg("--without-unified"))?;
        variants.push(Variant::new(
            "crun",
            helper,
            peers::oci_words(&crun, &scratch.join("crun"), &bundle),
        ));
    }
    if let Some(runc) = peers::find("runc") {
        variants.push(Variant::new(
            "runc",
            spawner()?,
            peers::oci_words(&runc, &scratch.join("runc"), &bundle),
        ));
    }
    if let Some(agent) = agent {
        let driver = agent.driver(if own_network { "none" } else { "host" })?;
        variants.push(Variant::new("bulkhead", driver, String::new()));
    }
    Ok(variants)
}

fn throughput(
    report: &mut Report,
    options: &Options,
    variants: Vec<Variant>,
    own_network: bool,
    suffix: &str,
) -> Result<(), Box<dyn Error>> {
    // A pool made beforehand can not stand for launches that go on, so here the floor makes its namespaces itself.
    let floor = if own_network {
        "floor, fresh netns"
    } else {
        "floor"
    };
    let mut runners: Vec<Variant> = variants
        .into_iter()
        .filter(|v| ["bulkhead", "crun", floor].contains(&v.name))
        .collect();
    let (rounds, count) = if options.quick { (3, 64) } else { (7, 200) };
    for runner in &mut runners {
        runner.sample = Sample::default();
        runner.rate(count / 4, IN_FLIGHT)?;
    }
    for _ in 0..rounds {
        runners.rotate_left(1);
        for runner in &mut runners {
            // crun is several times slower: fewer of its launches take as long, and so see the same noise.
            let count = if runner.name == "crun" { count / 4 } else { count };
            let rate = runner.rate(count, IN_FLIGHT)?;
            runner.sample.push(rate);
        }
    }
    let rows: Vec<_> = runners.iter().map(|v| (v.name, &v.sample)).collect();
    report.table(
        &format!("launches a second, {IN_FLIGHT} in flight{suffix}"),
        "1/s",
        &rows,
    );
    let median = |name: &str| runners.iter().find(|v| v.name == name).map(|v| v.sample.median());
    if let Some(own) = median("bulkhead") {
        let value = median("crun").map(|crun| own / crun);
        report.metric(
            format!("throughput_vs_crun{suffix}"),
            value,
            "ratio",
            Goal::AtLeast(2.3),
        );
    }
    Ok(())
}

/// Containers that stay up: does the thousandth cost more than the first?
fn growth(report: &mut Report, driver: &mut Helper) -> Result<(), Box<dyn Error>> {
    let finished = driver.ask_all(&format!("up {KEPT_UP} {IN_FLIGHT}"))?;
    let down = driver.ask(&format!("down {IN_FLIGHT}"))?;
    if finished.len() != KEPT_UP {
        return Err(format!("the driver launched {} of {KEPT_UP}", finished.len()).into());
    }
    let first = finished[99];
    let last = finished[KEPT_UP - 1] - finished[KEPT_UP - 101];
    report.note(&format!(
        "\n{KEPT_UP} containers kept up: {:.0}/s in the first 100, {:.0}/s in the last 100, {:.0}/s when killed",
        100e9 / first as f64,
        100e9 / last as f64,
        KEPT_UP as f64 * 1e9 / down as f64,
    ));
    report.metric(
        "last100_vs_first100",
        Some(first as f64 / last as f64),
        "ratio",
        Goal::AtLeast(0.95),
    );
    Ok(())
}
