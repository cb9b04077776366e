//! Strategies for every value that crosses the wire. Texts are any UTF-8; where the schema says "empty
//! is none", some text has at least one character.

use std::path::PathBuf;

use model::usage::PortSpan;
use model::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub fn id() -> impl Strategy<Value = ContainerId> {
    "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}".prop_map(|text| text.parse().unwrap())
}

pub fn name() -> impl Strategy<Value = ContainerName> {
    "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}".prop_map(|text| text.parse().unwrap())
}

fn text() -> impl Strategy<Value = String> {
    any::<String>()
}

fn some_text() -> impl Strategy<Value = String> {
    ".{1,12}"
}

fn path() -> impl Strategy<Value = PathBuf> {
    some_text().prop_map(PathBuf::from)
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..5)
}

fn limit_of<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Limit<T>> {
    prop_oneof![1 => Just(Limit::Max), 3 => value.prop_map(Limit::Value)]
}

fn cpus() -> impl Strategy<Value = Cpus> {
    (1u32..=8_192_000).prop_map(Cpus::from_milli)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    any::<u64>().prop_map(Bytes)
}

fn device_limit() -> impl Strategy<Value = DeviceLimit> {
    let number = || option::of(any::<u64>());
    (text(), number(), number(), number(), number()).prop_map(
        |(device, read_bps, write_bps, read_iops, write_iops)| DeviceLimit {
            device,
            read_bps,
            write_bps,
            read_iops,
            write_iops,
        },
    )
}

pub fn limits() -> impl Strategy<Value = Limits> {
    let cpu = (
        option::of(cpus()),
        option::of(limit_of(cpus())),
        option::of(any::<u64>().prop_map(Millis)),
    );
    let memory = (
        option::of(limit_of(bytes())),
        option::of(bytes()),
        option::of(limit_of(bytes())),
        option::of(bytes()),
        option::of(limit_of(bytes())),
    );
    let sets = (option::of(some_text()), option::of(some_text()));
    let io = (option::of(1u16..), vec(device_limit(), 0..4));
    let counts = (option::of(limit_of(any::<u32>())), option::of(limit_of(bytes())));
    (cpu, memory, counts, sets, (io, bandwidth())).prop_map(
        |(cpu, memory, (pids, disk), sets, (io, bandwidth))| Limits {
            bandwidth,
            cpus: cpu.0,
            cpu_limit: cpu.1,
            cpu_burst: cpu.2,
            mem: memory.0,
            mem_soft: memory.1,
            mem_high: memory.2,
            mem_min: memory.3,
            swap: memory.4,
            pids,
            disk,
            cpuset_cpus: sets.0,
            cpuset_mems: sets.1,
            io: IoLimits {
                weight: io.0,
                devices: io.1,
            },
        },
    )
}

fn bandwidth() -> impl Strategy<Value = Bandwidth> {
    let rate = || any::<u64>().prop_map(BitsPerSecond);
    (
        option::of(limit_of(rate())),
        option::of(limit_of(rate())),
        option::of(bytes()),
        option::of(bytes()),
        option::of(any::<u32>()),
        option::of(rate()),
        option::of(rate()),
    )
        .prop_map(
            |(egress, ingress, egress_burst, ingress_burst, weight, egress_min, ingress_min)| Bandwidth {
                egress,
                ingress,
                egress_burst,
                ingress_burst,
                weight,
                egress_min,
                ingress_min,
            },
        )
}

fn port_range() -> impl Strategy<Value = PortRange> {
    (1u16.., 1u16..)
        .prop_map(|(one, other)| PortRange::new(one.min(other), one.max(other)).expect("in order"))
}

fn port_ranges() -> impl Strategy<Value = PortRanges> {
    vec(port_range(), 0..4).prop_map(PortRanges::from)
}

fn port_request() -> impl Strategy<Value = PortRequest> {
    prop_oneof![
        any::<u16>().prop_map(PortRequest::Any),
        any::<u16>().prop_map(PortRequest::Row),
        port_ranges().prop_map(PortRequest::These),
    ]
}

fn grant() -> impl Strategy<Value = PortGrant> {
    (port_ranges(), option::of(port_range()))
        .prop_map(|(allotted, ephemeral)| PortGrant { allotted, ephemeral })
}

fn network() -> impl Strategy<Value = Network> {
    prop_oneof![Just(Network::Host), Just(Network::None), Just(Network::Mapped)]
}

pub fn terminal() -> impl Strategy<Value = TerminalSize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| TerminalSize { rows, columns })
}

fn volume() -> impl Strategy<Value = Volume> {
    (path(), path(), any::<bool>()).prop_map(|(source, target, read_only)| Volume {
        source,
        target,
        read_only,
    })
}

fn rlimit() -> impl Strategy<Value = Rlimit> {
    (text(), option::of(any::<u64>()), option::of(any::<u64>())).prop_map(|(name, soft, hard)| Rlimit {
        name,
        soft,
        hard,
    })
}

fn device_rule() -> impl Strategy<Value = DeviceRule> {
    (path(), any::<[bool; 3]>()).prop_map(|(path, [read, write, mknod])| DeviceRule {
        path,
        read,
        write,
        mknod,
    })
}

pub fn launch_spec() -> impl Strategy<Value = LaunchSpec> {
    let who = (
        option::of(id()),
        option::of(name()),
        vec(text(), 0..5),
        pairs(),
        option::of(some_text()),
    );
    let places = (
        option::of(path()),
        option::of(some_text()),
        option::of(path()),
        vec(volume(), 0..4),
    );
    let rules = (
        vec(some_text(), 0..4),
        vec(some_text(), 0..4),
        vec(rlimit(), 0..4),
        vec(device_rule(), 0..4),
    );
    let times = (
        option::of(any::<u64>().prop_map(Millis)),
        any::<u64>().prop_map(Millis),
    );
    let rest = (
        network(),
        any::<bool>(),
        option::of(terminal()),
        any::<bool>(),
        any::<bool>(),
    );
    let userns =
        (option::of(any::<u32>()), any::<u32>()).prop_map(|(base, count)| UserNamespace { base, count });
    let kept = (
        btree_map(text(), text(), 0..4),
        any::<u64>(),
        any::<u32>(),
        option::of(userns),
        option::of(port_request()),
        option::of(grant()),
    );
    (who, places, limits(), rules, times, rest, kept).prop_map(
        |(who, places, limits, rules, times, rest, kept)| LaunchSpec {
            id: who.0,
            name: who.1,
            command: who.2,
            env: who.3,
            user: who.4,
            workdir: places.0,
            hostname: places.1,
            rootfs: places.2,
            volumes: places.3,
            limits,
            network: rest.0,
            capabilities: Capabilities {
                add: rules.0,
                drop: rules.1,
            },
            rlimits: rules.2,
            seccomp: if rest.1 {
                Seccomp::Unconfined
            } else {
                Seccomp::Default
            },
            devices: rules.3,
            terminal: rest.2,
            stdin: rest.3,
            remove: rest.4,
            timeout: times.0,
            grace: times.1,
            labels: kept.0,
            output: OutputPolicy {
                file_bytes: Bytes(kept.1),
                files: kept.2,
            },
            userns: kept.3,
            ports: kept.4,
            grant: kept.5,
        },
    )
}

pub fn exec_spec() -> impl Strategy<Value = ExecSpec> {
    let who = (
        vec(text(), 0..5),
        pairs(),
        option::of(some_text()),
        option::of(path()),
    );
    (who, option::of(terminal()), any::<bool>()).prop_map(|(who, terminal, stdin)| ExecSpec {
        command: who.0,
        env: who.1,
        user: who.2,
        workdir: who.3,
        terminal,
        stdin,
    })
}

fn state() -> impl Strategy<Value = ContainerState> {
    use ContainerState::*;
    proptest::sample::select(vec![
        Admitted, Prepared, Forked, Isolated, Running, Killing, Destroyed,
    ])
}

fn reason() -> impl Strategy<Value = Reason> {
    use Reason::*;
    proptest::sample::select(vec![
        Exited,
        Signaled,
        Killed,
        Timeout,
        MemoryLimit,
        DiskLimit,
        LaunchFailed,
        Lost,
    ])
}

fn limitation() -> impl Strategy<Value = Limitation> {
    let counters = btree_map(text(), any::<u64>(), 0..6);
    (
        reason(),
        text(),
        option::of(bytes()),
        option::of(bytes()),
        counters,
    )
        .prop_map(|(reason, message, limit, peak, statistics)| Limitation {
            reason,
            message,
            limit,
            peak,
            statistics,
        })
}

pub fn termination() -> impl Strategy<Value = Termination> {
    (
        0i32..=255,
        option::of(1i32..=64),
        reason(),
        text(),
        option::of(limitation()),
        any::<u64>(),
    )
        .prop_map(
            |(exit_status, signal, reason, message, limitation, finished_at_ms)| Termination {
                exit_status,
                signal,
                reason,
                message,
                limitation,
                finished_at_ms,
            },
        )
}

pub fn status() -> impl Strategy<Value = ContainerStatus> {
    let who = (
        id(),
        option::of(name()),
        state(),
        option::of(1i32..),
        vec(text(), 0..4),
    );
    let rest = (
        (network(), option::of(grant())),
        btree_map(text(), text(), 0..4),
        any::<u64>(),
        option::of(1u64..),
        option::of(path()),
    );
    let ending = (option::of(some_text()), option::of(termination()));
    (who, limits(), rest, any::<bool>(), ending).prop_map(
        |(who, limits, rest, terminal, (waits_for, termination))| ContainerStatus {
            id: who.0,
            name: who.1,
            state: who.2,
            pid: who.3,
            command: who.4,
            limits,
            network: rest.0.0,
            grant: rest.0.1,
            labels: rest.1,
            created_at_ms: rest.2,
            started_at_ms: rest.3,
            sandbox: rest.4,
            terminal,
            waits_for,
            termination,
        },
    )
}

pub fn fault() -> impl Strategy<Value = Fault> {
    use FaultKind::*;
    let kind = proptest::sample::select(vec![
        Invalid,
        Unsupported,
        NotFound,
        Conflict,
        State,
        Exhausted,
        Denied,
        Failed,
        CommandNotFound,
        CommandNotExecutable,
        Unavailable,
    ]);
    (
        kind,
        option::of(some_text()),
        some_text(),
        option::of(some_text()),
    )
        .prop_map(|(kind, field, message, remedy)| Fault {
            kind,
            field,
            message,
            remedy,
        })
}

/// Every field present or absent by one bit of a mask; each with a number of its own, so that two
/// fields that were swapped would be seen.
pub fn usage() -> impl Strategy<Value = Usage> {
    (any::<u64>(), 1u64..1 << 40, 0.0..4e9).prop_map(|(mask, base, timestamp)| {
        let mut bit = 0;
        let mut next = || {
            bit += 1;
            (mask & (1 << (bit - 1)) != 0).then_some(base + bit)
        };
        Usage {
            timestamp,
            processes: next().map(|n| n as u32),
            threads: next().map(|n| n as u32),
            cpus_user_time_secs: next().map(|n| n as f64 / 8.0),
            cpus_system_time_secs: next().map(|n| n as f64 / 8.0),
            cpus_limit: next().map(|n| n as f64 / 8.0),
            cpus_soft_limit: next().map(|n| n as f64 / 8.0),
            cpus_nr_periods: next(),
            cpus_nr_throttled: next(),
            cpus_throttled_time_secs: next().map(|n| n as f64 / 8.0),
            mem_total_bytes: next(),
            mem_total_memsw_bytes: next(),
            mem_limit_bytes: next(),
            mem_soft_limit_bytes: next(),
            mem_peak_bytes: next(),
            mem_file_bytes: next(),
            mem_cache_bytes: next(),
            mem_anon_bytes: next(),
            mem_rss_bytes: next(),
            mem_mapped_file_bytes: next(),
            mem_swap_bytes: next(),
            mem_unevictable_bytes: next(),
            mem_kmem_usage_bytes: next(),
            mem_limit_hits: next(),
            mem_oom_kills: next(),
            pids_limit: next(),
            pids_refused: next(),
            io_read_bytes: next(),
            io_write_bytes: next(),
            io_reads: next(),
            io_writes: next(),
            disk_limit_bytes: next(),
            disk_used_bytes: next(),
            net_rx_packets: next(),
            net_rx_bytes: next(),
            net_rx_errors: next(),
            net_rx_dropped: next(),
            net_tx_packets: next(),
            net_tx_bytes: next(),
            net_tx_errors: next(),
            net_tx_dropped: next(),
            net_tcp_rtt_microsecs_p50: next().map(|n| n as f64 / 8.0),
            net_tcp_rtt_microsecs_p90: next().map(|n| n as f64 / 8.0),
            net_tcp_rtt_microsecs_p95: next().map(|n| n as f64 / 8.0),
            net_tcp_rtt_microsecs_p99: next().map(|n| n as f64 / 8.0),
            net_tcp_active_connections: next().map(|n| n as f64 / 8.0),
            net_tcp_time_wait_connections: next().map(|n| n as f64 / 8.0),
            net_tx_rate_limit: next(),
            net_tx_burst_size: next(),
            net_rx_rate_limit: next(),
            net_rx_burst_size: next(),
            net_rx_limited_bytes: next(),
            net_tx_limited_bytes: next(),
            net_rx_queue_delay_microsecs: next(),
            net_tx_queue_delay_microsecs: next(),
            net_tcp_retransmits: next(),
            net_ephemeral_ports: (mask & 4 != 0).then_some(PortSpan { begin: 5, end: 7 }),
            net_snmp_statistics: (mask & 8 != 0)
                .then(|| model::SnmpStatistics::new(std::array::from_fn(|n| base as i64 - n as i64))),
            net_drops: (0..mask & 3).map(|n| (format!("reason{n}"), base + n)).collect(),
            cpu_pressure: pressure(mask, base),
            mem_pressure: pressure(mask >> 1, base + 100),
            io_pressure: pressure(mask >> 2, base + 200),
        }
    })
}

fn pressure(mask: u64, base: u64) -> Option<Pressure> {
    let stall = |base: u64| Stall {
        avg10_percent: base as f64,
        avg60_percent: base as f64 + 1.0,
        avg300_percent: base as f64 + 2.0,
        total_secs: base as f64 / 8.0,
    };
    (mask & 1 != 0).then(|| Pressure {
        some: stall(base),
        full: (mask & 0x100 != 0).then(|| stall(base + 10)),
    })
}

pub fn container_usage() -> impl Strategy<Value = ContainerUsage> {
    (id(), option::of(name()), usage()).prop_map(|(id, name, usage)| ContainerUsage { id, name, usage })
}

pub fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        state().prop_map(|state| EventKind::State { state }),
        (any::<i32>(), reason(), text()).prop_map(|(exit_status, reason, message)| EventKind::Ended {
            exit_status,
            reason,
            message
        }),
        text().prop_map(|message| EventKind::LimitHit { message }),
        Just(EventKind::Updated),
        vec(text(), 0..4).prop_map(|command| EventKind::Exec { command }),
        (any::<u32>(), text()).prop_map(|(attempt, message)| EventKind::CleanupRetry { attempt, message }),
        (any::<u64>(), any::<u64>()).prop_map(|(bytes, files)| EventKind::SandboxRemoved { bytes, files }),
        (any::<u16>(), any::<u64>()).prop_map(|(port, refused)| EventKind::PortRefused { port, refused }),
    ];
    (any::<u64>(), any::<u64>(), id(), option::of(name()), kind).prop_map(
        |(sequence, at_ms, container, name, kind)| Event {
            sequence,
            at_ms,
            container,
            name,
            kind,
        },
    )
}

pub fn agent_info() -> impl Strategy<Value = AgentInfo> {
    let texts = (text(), text(), text(), text(), text(), text());
    (texts, any::<u64>(), any::<i32>(), option::of(some_text())).prop_map(
        |(texts, started_at_ms, pid, http_address)| AgentInfo {
            version: texts.0,
            git_sha: texts.1,
            build_date: texts.2,
            started_at_ms,
            pid,
            instance: texts.3,
            http_address,
            work_dir: texts.4,
            runtime_dir: texts.5,
        },
    )
}

pub fn host_report() -> impl Strategy<Value = HostReport> {
    let line = (text(), any::<bool>(), text(), text()).prop_map(|(name, active, mechanism, missing)| {
        IsolatorReport {
            name,
            active,
            mechanism,
            missing,
        }
    });
    (vec(line, 0..5), text(), text(), any::<u32>(), bytes()).prop_map(
        |(isolators, kernel_release, cgroup_layout, cpus, memory)| HostReport {
            isolators,
            kernel_release,
            cgroup_layout,
            cpus,
            memory,
        },
    )
}

pub fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    let identity =
        (any::<i32>(), any::<u64>(), text()).prop_map(|(pid, start_time, boot_id)| ProcessIdentity {
            pid,
            start_time,
            boot_id,
        });
    let kept = (text(), any::<i32>()).prop_map(|(name, number)| KeptDescriptor { name, number });
    let who = (text(), id(), launch_spec().boxed(), state(), limits().boxed());
    let process = (option::of(identity), vec(kept, 0..5), option::of(path()));
    let times = (
        any::<u64>(),
        option::of(any::<u64>()),
        option::of(reason()),
        option::of(any::<u64>()),
        option::of(any::<u32>()),
    );
    (who, process, times, option::of(termination().boxed())).prop_map(|(who, process, times, termination)| {
        Checkpoint {
            instance: who.0,
            id: who.1,
            spec: who.2,
            state: who.3,
            limits: who.4,
            updating: None,
            start_marked: times.0 % 2 == 1,
            init: process.0,
            kept: process.1,
            sandbox: process.2,
            created_at_ms: times.0,
            started_at_ms: times.1,
            killing: times.2,
            kill_at_ms: times.3,
            termination,
            network_slot: times.4,
        }
    })
}
