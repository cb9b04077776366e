//! Measuring containers: files kept open, read on a worker, the loop never waits for the kernel.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use isolators::UsageReader;
use model::usage::PortSpan;
use model::{ContainerId, ContainerState, Fault, Limits, Network, NetworkUsage, Usage};

use crate::launch::failed;
use crate::shell::Shell;

/// Containers measured in one job: about two milliseconds, so that launches get their turn on the workers.
const BATCH: usize = 128;

/// What a worker needs to measure one container.
struct Target {
    id: ContainerId,
    reader: Option<Arc<UsageReader>>,
    limits: Limits,
    /// As measured last.
    disk_used: Option<u64>,
    /// Processor time at the last sample: it is left out when it has used none since.
    unless_idle_at: Option<(f64, f64)>,
    /// Its files stay open whether it runs or not.
    in_demand: bool,
    /// Processor time at the last sample of our own.
    last_times: Option<(f64, f64)>,
}

/// At every so manieth interval those are measured too that have not run: the kernel may write for them, or reclaim from them.
const IDLE_ROUNDS: u64 = 6;
/// Rounds of our own for which files stay open after somebody has asked for a sample: monitoring comes again.
const ROUNDS_IN_DEMAND: u8 = 6;

/// One sample of each container asked for (all that run, if the list is empty). Those that end
/// meanwhile are left out, unless they were asked for by name.
pub async fn sample(shell: &Rc<Shell>, ids: &[ContainerId]) -> Result<Vec<(ContainerId, Usage)>, Fault> {
    let targets = targets(shell, ids)?;
    for target in &targets {
        if let Some(resources) = shell.resources(&target.id) {
            resources.in_demand.set(ROUNDS_IN_DEMAND);
        }
    }
    samples_of(shell, targets, ids.is_empty()).await
}

/// `lenient`: those that can't be measured are left out as well.
async fn samples_of(
    shell: &Rc<Shell>,
    targets: Vec<Target>,
    lenient: bool,
) -> Result<Vec<(ContainerId, Usage)>, Fault> {
    let mut samples = Vec::with_capacity(targets.len());
    crate::connections::look(shell).await;
    let moved = mapped_traffic(shell).await;
    let mut targets = targets.into_iter().peekable();
    while targets.peek().is_some() {
        let batch: Vec<Target> = targets.by_ref().take(BATCH).collect();
        let (isolators, host, disk) = (shell.isolators.clone(), shell.host.clone(), shell.disk.clone());
        let measured = shell
            .pool
            .run(move || {
                batch
                    .into_iter()
                    .map(|t| measure(&isolators, &disk, &host, t))
                    .collect::<Vec<_>>()
            })
            .await
            .map_err(|e| failed(&e))?;
        for (id, reader, usage) in measured {
            keep(shell, &id, reader);
            match usage {
                Ok(Some(usage)) => {
                    let usage = with_network(shell, &id, &moved, usage);
                    samples.push((id, usage));
                }
                Err(fault) if !lenient => return Err(fault),
                Ok(None) | Err(_) => {}
            }
        }
    }
    Ok(samples)
}

/// What all containers with a network of their own have moved: one batch for all of them.
async fn mapped_traffic(shell: &Rc<Shell>) -> HashMap<ContainerId, NetworkUsage> {
    let any = shell
        .core()
        .list(false)
        .any(|status| status.network == Network::Mapped);
    if !any {
        return HashMap::new();
    }
    let network = shell.network.clone();
    match shell.pool.run(move || network.usage()).await {
        Ok(Ok(moved)) => moved,
        Ok(Err(fault)) => {
            tracing::warn!("measure the network: {fault}");
            HashMap::new()
        }
        Err(error) => {
            tracing::warn!("measure the network: {error}");
            HashMap::new()
        }
    }
}

fn with_network(
    shell: &Shell,
    id: &ContainerId,
    moved: &HashMap<ContainerId, NetworkUsage>,
    mut usage: Usage,
) -> Usage {
    if let Some(moved) = moved.get(id) {
        moved.fill(&mut usage);
    }
    let core = shell.core();
    let ephemeral = core.spec(id).and_then(|spec| spec.grant.as_ref()?.ephemeral);
    usage.net_ephemeral_ports = ephemeral.map(|range| PortSpan {
        begin: range.first(),
        end: range.last(),
    });
    usage
}

fn targets(shell: &Shell, ids: &[ContainerId]) -> Result<Vec<Target>, Fault> {
    let core = shell.core();
    let target = |id: &ContainerId, limits: &Limits| Target {
        id: id.clone(),
        reader: shell.resources(id).and_then(|r| r.usage.borrow().clone()),
        limits: limits.clone(),
        disk_used: shell.resources(id).and_then(|r| r.disk.used()),
        unless_idle_at: None,
        in_demand: true,
        last_times: None,
    };
    if ids.is_empty() {
        let measurable = |s: &&model::ContainerStatus| {
            matches!(s.state, ContainerState::Running | ContainerState::Killing) && s.pid.is_some()
        };
        return Ok(core
            .list(false)
            .filter(measurable)
            .map(|s| target(&s.id, &s.limits))
            .collect());
    }
    ids.iter()
        .map(|id| match core.status(id) {
            Some(status) if !status.state.is_over() => Ok(target(id, &status.limits)),
            Some(_) => {
                let message = format!("container {id} has ended and uses nothing any more");
                Err(Fault::new(model::FaultKind::State, message))
            }
            None => Err(crate::launch::unknown(id)),
        })
        .collect()
}

/// No usage: it has not run since its last sample.
type Measured = (
    ContainerId,
    Option<Arc<UsageReader>>,
    Result<Option<Usage>, Fault>,
);

fn measure(
    isolators: &isolators::IsolatorSet,
    disk: &isolators::disk::DiskIsolator,
    host: &model::HostSupport,
    target: Target,
) -> Measured {
    let Target {
        id,
        reader,
        limits,
        disk_used,
        unless_idle_at,
        in_demand,
        last_times,
    } = target;
    let idle = |reader: &Arc<UsageReader>| {
        unless_idle_at.is_some()
            && BUFFER.with_borrow_mut(|buffer| reader.cpu_times(buffer)) == unless_idle_at
    };
    let reader = match reader {
        Some(reader) if idle(&reader) => {
            let kept = if in_demand { reader } else { reduced(reader) };
            return (id, Some(kept), Ok(None));
        }
        Some(reader) if reader.is_whole() => reader,
        _ => match isolators.usage(&id) {
            Ok(reader) => Arc::new(reader),
            Err(error) => return (id, None, Err(failed(&error))),
        },
    };
    let mut usage = BUFFER.with_borrow_mut(|buffer| reader.sample(buffer));
    usage.timestamp = net::wall_ms() as f64 / 1000.0;
    isolators::limits_into(&limits, host, &mut usage);
    // A quota tells what holds now.
    usage.disk_used_bytes = disk.used(&id).ok().flatten().or(disk_used);
    // Of one that is seen for the first time nobody knows whether it works.
    let has_run = last_times.is_some() && last_times != isolators::cpu_times(&usage);
    let kept = if in_demand || has_run {
        reader
    } else {
        reduced(reader)
    };
    (id, Some(kept), Ok(Some(usage)))
}

/// One that somebody else is reading by at this moment stays as it is.
pub(crate) fn reduced(reader: Arc<UsageReader>) -> Arc<UsageReader> {
    if !reader.is_whole() {
        return reader;
    }
    match Arc::try_unwrap(reader) {
        Ok(reader) => Arc::new(BUFFER.with_borrow_mut(|buffer| reader.reduced(buffer))),
        Err(shared) => shared,
    }
}

thread_local! {
    /// One per worker: kernel files are read into it, so a sample allocates nothing.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The reader stays open until its container is cleaned up; one that came back too late, or knows less than the one that is
/// there, is dropped.
pub(crate) fn keep(shell: &Shell, id: &ContainerId, reader: Option<Arc<UsageReader>>) {
    let Some(resources) = shell.resources(id) else {
        return;
    };
    if resources.init.borrow().is_some() {
        let mut usage = resources.usage.borrow_mut();
        if !usage.as_ref().is_some_and(|usage| usage.is_whole()) && reader.is_some() {
            *usage = reader;
        }
    }
}

/// Measures everything at the configured interval, so that `inspect` can tell of a container that has ended what it
/// used last, and what can't be read is noticed before an operator asks for it. Most containers of most hosts do nothing
/// most of the time: of them one file is read instead of a dozen, and unless somebody asks, only that one is kept open.
pub async fn keep_sampling(shell: Rc<Shell>) {
    for round in 1_u64.. {
        net::sleep(shell.config.sample_interval.duration()).await;
        let sampled = match targets(&shell, &[]) {
            Ok(mut targets) => {
                let all = round % IDLE_ROUNDS == 0;
                targets
                    .iter_mut()
                    .for_each(|target| spare_if_idle(&shell, target, all));
                samples_of(&shell, targets, true).await
            }
            Err(fault) => Err(fault),
        };
        match sampled {
            Ok(samples) => {
                for (id, usage) in samples {
                    if let Some(resources) = shell.resources(&id) {
                        *resources.last_usage.borrow_mut() = Some(usage);
                    }
                }
            }
            Err(fault) => tracing::warn!("sample the containers: {fault}"),
        }
        // What no notice has told, such as a route.
        crate::uplinks::look_again(&shell).await;
    }
}

/// `all`: it is measured in any case.
fn spare_if_idle(shell: &Shell, target: &mut Target, all: bool) {
    let Some(resources) = shell.resources(&target.id) else {
        return;
    };
    let rounds = resources.in_demand.get();
    resources.in_demand.set(rounds.saturating_sub(1));
    target.in_demand = rounds > 0;
    target.last_times = resources
        .last_usage
        .borrow()
        .as_ref()
        .and_then(isolators::cpu_times);
    if !all {
        target.unless_idle_at = target.last_times;
    }
    if !target.in_demand {
        // The worker may close it.
        drop(target.reader.take());
        target.reader = resources.usage.borrow_mut().take();
    }
}
