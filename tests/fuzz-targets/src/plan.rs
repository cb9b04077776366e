//! A launch as a client sends it, made into the plan that a container's init executes.
//!
//! Rules: a plan survives its encoding; every path in it is absolute; what is refused names a field or says why.

use std::path::PathBuf;

use container::channel::{PLAN_BYTES_MAX, decode_plan, encode_plan};
use container::plan::{ChildPlan, PlanContext, exec_plan, launch_plan};
use model::{CgroupLayout, ExecSpec, Fault, HostSupport, LaunchSpec};

thread_local! {
    static HOST: HostSupport = host();
}

/// A host that has everything.
fn host() -> HostSupport {
    let directory = tempfile::tempdir().expect("a scratch directory");
    kernel::fake::cgroups::FakeCgroups::default()
        .host(directory.path(), CgroupLayout::V2)
        .expect("a host")
}

fn context() -> PlanContext {
    let id = "c1".parse().expect("an id");
    PlanContext {
        id,
        sandbox: PathBuf::from("/w/c1/sandbox"),
        sandbox_target: PathBuf::from("/w/c1/sandbox"),
        hidden: vec![PathBuf::from("/w"), PathBuf::from("/run/bulkhead")],
        overlay_dir: Some(PathBuf::from("/w/c1/overlay")),
        hostname: "box".to_owned(),
    }
}

/// The plan of a launch on that host.
pub fn of(spec: &LaunchSpec) -> Result<ChildPlan, Fault> {
    HOST.with(|host| launch_plan(spec, host, &context()))
}

pub fn run(data: &[u8]) {
    let Some(spec) = crate::wire_values::launch_spec(data) else {
        return;
    };
    check(of(&spec));
    let exec = ExecSpec {
        command: spec.command.clone(),
        env: spec.env.clone(),
        user: spec.user.clone(),
        workdir: spec.workdir.clone(),
        ..ExecSpec::default()
    };
    check(HOST.with(|host| exec_plan(&exec, &spec, host, &context())));
}

fn check(plan: Result<ChildPlan, Fault>) {
    let plan = match plan {
        Ok(plan) => plan,
        Err(fault) => {
            assert!(!fault.message.is_empty());
            return;
        }
    };
    let _ = plan.to_string();
    assert!(plan.process.workdir.as_bytes().starts_with(b"/"));
    assert!(!plan.process.command.is_empty());
    let encoded = encode_plan(&plan);
    if encoded.len() <= PLAN_BYTES_MAX {
        assert_eq!(decode_plan(&encoded[4..]), Some(plan));
    }
}
