use std::collections::BTreeMap;

use model::host::ControllerMount;
use model::{
    Bytes, Capabilities, CgroupLayout, Controller, ExecSpec, Fault, FaultKind, HostSupport, LaunchSpec,
    Network, Rlimit, Seccomp, UserNamespace, Volume,
};

use super::*;

fn host() -> HostSupport {
    let mount = |root: &str| ControllerMount {
        version: 1,
        root: root.into(),
    };
    HostSupport {
        kernel_release: "6.1".into(),
        boot_id: "b".into(),
        cpus: 2,
        memory: Bytes::gib(1),
        page_size: Bytes(4096),
        layout: CgroupLayout::Hybrid,
        controllers: BTreeMap::from([
            (Controller::Cpu, mount("/sys/fs/cgroup/cpu,cpuacct")),
            (Controller::Cpuacct, mount("/sys/fs/cgroup/cpu,cpuacct")),
            (Controller::Memory, mount("/sys/fs/cgroup/memory")),
        ]),
        unified: None,
        swap_accounting: false,
        cgroup_kill: true,
        cpu_burst: true,
        io_weight_file: None,
        io_throttle: true,
        cpuset_cpus: None,
        cpuset_mems: None,
        seccomp: true,
        overlay: true,
        pressure: false,
        user_namespaces: Some(true),
        mapped_mounts: true,
        mapped_layers: true,
        last_capability: 40,
        // All but SYS_RESOURCE.
        bounding_capabilities: ((1 << 41) - 1) & !(1 << 24),
        resolver_under_run: None,
    }
}

fn context() -> PlanContext {
    PlanContext {
        id: "c1".parse().unwrap(),
        sandbox: "/w/c1/sandbox".into(),
        sandbox_target: "/w/c1/sandbox".into(),
        hidden: vec!["/w".into(), "/run/bulkhead".into(), "/w/inner".into()],
        overlay_dir: Some("/w/c1/overlay".into()),
        hostname: "box".into(),
    }
}

fn spec(command: &[&str]) -> LaunchSpec {
    LaunchSpec {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..LaunchSpec::default()
    }
}

fn plan(change: impl FnOnce(&mut LaunchSpec)) -> Result<ChildPlan, Fault> {
    let mut spec = spec(&["true"]);
    change(&mut spec);
    launch_plan(&spec, &host(), &context())
}

fn refused(field: &str, change: impl FnOnce(&mut LaunchSpec)) -> Fault {
    let fault = plan(change).expect_err(field);
    assert_eq!(fault.field.as_deref(), Some(field), "{fault}");
    fault
}

#[test]
fn the_plan_reads_as_a_list_of_steps() {
    let mut host = host();
    host.resolver_under_run = Some("/run/resolv.conf".into());
    let mut spec = spec(&["sleep", "1"]);
    spec.env = vec![("SECRET".into(), "s3cret".into())];
    spec.volumes = vec![Volume {
        source: "/data".into(),
        target: "/mnt/".into(),
        read_only: true,
    }];
    let text = launch_plan(&spec, &host, &context()).unwrap().to_string();
    let expected = "\
hold the tree at /run/resolv.conf
hold the tree at /w/c1/sandbox
hold the tree at /data
hold own v1 cgroups cpu,cpuacct memory
root: the host's, private, read-only, nosuid, nodev
mount procfs
make a private /dev
private directory /tmp mode 1777
private directory /var/tmp mode 1777, if there is one
private directory /run mode 755
private directory /var/run mode 755, if there is one
hide /w, with an empty c1/sandbox in it
the host's sysfs, read-only, nothing mounted below
show own v1 cgroups read-only
make read-only /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("\nattach tree 0 at /run/resolv.conf (ro,nosuid,nodev)\nattach tree 1 at /w/c1/sandbox (rw,nosuid,nodev)\nattach tree 2 at /mnt (ro,nosuid,nodev)\nhost name box\n"), "{text}");
    assert!(text.ends_with("environment BULKHEAD_CONTAINER_ID BULKHEAD_SANDBOX HOSTNAME MESOS_SANDBOX PATH SECRET\nexecute [\"sleep\", \"1\"] found in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), "{text}");
    assert!(!text.contains("s3cret"));
}

#[test]
fn a_plan_survives_the_channel() {
    let plan = plan(|spec| spec.user = Some("web:33".into())).unwrap();
    let bytes = crate::channel::encode_plan(&plan);
    assert_eq!(postcard::from_bytes::<ChildPlan>(&bytes[4..]).unwrap(), plan);
}

#[test]
fn wrong_specs_are_refused_with_their_field() {
    refused("command", |spec| spec.command.clear());
    refused("command.0", |spec| spec.command[0].clear());
    refused("command.1", |spec| spec.command.push("a\0b".into()));
    refused("workdir", |spec| spec.workdir = Some("relative".into()));
    refused("env.0", |spec| spec.env = vec![("A=B".into(), String::new())]);
    refused("env.1", |spec| {
        spec.env = vec![("A".into(), String::new()), ("B".into(), "\0".into())]
    });
    refused("rlimits.0", |spec| {
        spec.rlimits = vec![Rlimit {
            name: "files".into(),
            soft: None,
            hard: None,
        }]
    });
    refused("rlimits.0", |spec| {
        spec.rlimits = vec![Rlimit {
            name: "nofile".into(),
            soft: None,
            hard: Some(1),
        }];
    });
    refused("capabilities.add", |spec| {
        spec.capabilities.add = vec!["ROOT".into()]
    });
    for user in [
        "",
        ":",
        "a:",
        ":b",
        "a b",
        "4294967295",
        "99999999999",
        "a/b",
        "a\0",
    ] {
        refused("user", |spec| spec.user = Some(user.into()));
    }
    let volume = |source: &str, target: &str| Volume {
        source: source.into(),
        target: target.into(),
        read_only: true,
    };
    refused("volumes.0.source", |spec| {
        spec.volumes = vec![volume("data", "/mnt")]
    });
    refused("volumes.0.source", |spec| {
        spec.volumes = vec![volume("/a/../b", "/mnt")]
    });
    for target in [
        "/",
        "/proc",
        "/proc/self",
        "/sys/x",
        "/dev/null",
        "mnt",
        "/mnt/../etc",
    ] {
        refused("volumes.0.target", |spec| {
            spec.volumes = vec![volume("/data", target)]
        });
    }
    refused("volumes.1.target", |spec| {
        spec.volumes = vec![volume("/a", "/mnt"), volume("/b", "/mnt/")]
    });
    refused("rootfs", |spec| spec.rootfs = Some("/a:b".into()));
    let device = |path: &str| model::DeviceRule {
        path: path.into(),
        read: true,
        write: true,
        mknod: false,
    };
    refused("devices.0.path", |spec| {
        spec.devices = vec![device("/etc/passwd")]
    });
}

#[test]
fn what_the_host_lacks_is_named() {
    let mut host = host();
    (host.overlay, host.seccomp) = (false, false);
    let fault = |change: fn(&mut LaunchSpec)| {
        let mut spec = spec(&["true"]);
        change(&mut spec);
        launch_plan(&spec, &host, &context()).unwrap_err()
    };
    let no_filter = fault(|_| {});
    assert_eq!(
        (no_filter.kind, no_filter.field.as_deref()),
        (FaultKind::Unsupported, Some("seccomp"))
    );
    let no_overlay = fault(|spec| {
        spec.seccomp = Seccomp::Unconfined;
        spec.rootfs = Some("/image".into());
    });
    assert!(no_overlay.kind == FaultKind::Unsupported && no_overlay.message.contains("CONFIG_OVERLAY_FS"));
    let missing = refused("capabilities.add", |spec| {
        spec.capabilities.add = vec!["SYS_RESOURCE".into()]
    });
    assert_eq!(missing.kind, FaultKind::Unsupported);
}

#[test]
fn capabilities_are_added_and_dropped_as_asked() {
    let sets = |add: &[&str], drop: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let plan = plan(|spec| {
            spec.capabilities = Capabilities {
                add: owned(add),
                drop: owned(drop),
            }
        })
        .unwrap();
        (
            plan.process.capabilities,
            plan.process.ambient,
            plan.process.bounding_drop,
        )
    };
    let all = host().bounding_capabilities;
    let default = default_capabilities().0;
    assert_eq!(sets(&[], &[]), (default, 0, all & !default));
    assert_eq!(sets(&["ALL"], &[]), (all, all, 0));
    assert_eq!(
        sets(&["cap_net_raw"], &["ALL"]),
        (1 << 13, 1 << 13, all & !(1 << 13))
    );
    assert_eq!(sets(&["NET_RAW"], &["NET_RAW"]).0, default);
}

#[test]
fn own_network_or_root_gets_a_sysfs_of_its_own() {
    let fresh =
        |change: fn(&mut LaunchSpec)| plan(change).unwrap().steps.contains(&Step::Sysfs { fresh: true });
    assert!(!fresh(|_| {}));
    assert!(fresh(|spec| spec.network = Network::None));
    assert!(fresh(|spec| spec.rootfs = Some("/image".into())));
}

#[test]
fn an_exec_takes_over_environment_user_and_limits() {
    let mut parent = spec(&["server"]);
    parent.env = vec![("A".into(), "1".into()), ("B".into(), "1".into())];
    parent.user = Some("33".into());
    parent.rlimits = vec![Rlimit {
        name: "core".into(),
        soft: Some(0),
        hard: Some(0),
    }];
    let exec = ExecSpec {
        command: vec!["sh".into()],
        env: vec![("B".into(), "2".into())],
        ..ExecSpec::default()
    };
    let plan = exec_plan(&exec, &parent, &host(), &context()).unwrap();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.process.user, Some(UserName::Id(33)));
    assert_eq!(plan.process.rlimits.len(), 1);
    assert!(plan.process.environment.contains(&c"A=1".to_owned()));
    assert!(plan.process.environment.contains(&c"B=2".to_owned()));
}

fn own_ids(spec: &mut LaunchSpec) {
    spec.userns = Some(UserNamespace {
        base: Some(200_000),
        count: 65_536,
    });
}

#[test]
fn own_ids_are_made_first_and_entered_last() {
    let plan = plan(|spec| {
        own_ids(spec);
        spec.network = Network::None;
        spec.volumes = vec![Volume {
            source: "/data".into(),
            target: "/mnt".into(),
            read_only: false,
        }];
    })
    .unwrap();
    let text = plan.to_string();
    let expected = "\
make a user namespace: ids 0 to 65535 are those from 200000 on, owner of a new network namespace
hold the tree at /w/c1/sandbox, given to the container's root
hold the tree at /data, ids mapped
";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(plan.steps.last(), Some(&Step::EnterOwnIds));
    // Those of the user namespace, which has what the agent lacks.
    assert_eq!(
        plan.process.bounding_drop,
        ((1 << 41) - 1) & !default_capabilities().0
    );
    let all = |spec: &mut LaunchSpec| {
        own_ids(spec);
        spec.capabilities.add = vec!["SYS_RESOURCE".into()];
    };
    assert!(self::plan(all).is_ok());
}

#[test]
fn own_ids_come_with_the_network_that_was_made_for_them() {
    let plan = plan(|spec| {
        own_ids(spec);
        spec.network = Network::Mapped;
    })
    .unwrap();
    let text = plan.to_string();
    assert!(
        text.starts_with("take the user namespace: ids 0 to 65535 are those from 200000 on"),
        "{text}"
    );
}

#[test]
fn without_own_ids_nothing_of_them_is_in_the_plan() {
    let plan = plan(|spec| {
        spec.volumes = vec![Volume {
            source: "/data".into(),
            target: "/mnt".into(),
            read_only: false,
        }];
    })
    .unwrap();
    let of_ids = |step: &Step| match step {
        Step::OwnIds { .. } | Step::EnterOwnIds => true,
        Step::HoldSource { owners, .. } => *owners != Owners::Same,
        Step::OverlayRoot { mapped, .. } => *mapped,
        _ => false,
    };
    assert!(!plan.steps.iter().any(of_ids) && plan.process.ids.is_none());
}

#[test]
fn own_ids_that_can_not_be_are_refused() {
    refused("userns", |spec| spec.userns = Some(UserNamespace::of(0)));
    for user in ["65536", "0:65536", "4294967294"] {
        refused("user", |spec| {
            own_ids(spec);
            spec.user = Some(user.into());
        });
    }
    // The agent has not given any: a mistake of ours, never a container without.
    let fault = plan(|spec| spec.userns = Some(UserNamespace::of(10))).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Failed);
    let refused_by = |change: fn(&mut HostSupport), wanted: fn(&mut LaunchSpec)| {
        let (mut host, mut spec) = (host(), spec(&["true"]));
        change(&mut host);
        own_ids(&mut spec);
        wanted(&mut spec);
        let fault = launch_plan(&spec, &host, &context()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unsupported, "{fault}");
        fault.to_string()
    };
    let volume = |spec: &mut LaunchSpec| {
        spec.volumes = vec![Volume {
            source: "/data".into(),
            target: "/mnt".into(),
            read_only: true,
        }];
    };
    let none = refused_by(|host| host.user_namespaces = Some(false), |_| {});
    assert!(none.contains("CONFIG_USER_NS"), "{none}");
    let old = refused_by(|host| host.mapped_mounts = false, volume);
    assert!(old.contains("5.12"), "{old}");
    let layers = refused_by(
        |host| host.mapped_layers = false,
        |spec| spec.rootfs = Some("/image".into()),
    );
    assert!(layers.contains("5.19"), "{layers}");
}
