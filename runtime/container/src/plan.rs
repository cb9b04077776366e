//! A launch as a list of steps: pure. All validation of a spec happens here, with the field named;
//! what is left to the child can fail only on the state of the host.

mod own_directories;
mod own_ids;
mod process;
mod rootfs;
mod step;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use model::{ContainerId, ExecSpec, Fault, HostSupport, LaunchSpec};
use serde::{Deserialize, Serialize};

pub use process::{GroupName, ProcessPlan, RlimitPlan, UserName, default_capabilities};
pub(crate) use process::{ROOT_HOME, is_path};
pub use step::{OwnNetwork, Owners, Step};

/// What the agent adds to a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanContext {
    pub id: ContainerId,
    /// The container's own directory on the host; bind-mounted writable.
    pub sandbox: PathBuf,
    /// Where the container sees it.
    pub sandbox_target: PathBuf,
    /// Directories of the host that must be out of reach: the agent's own.
    pub hidden: Vec<PathBuf>,
    /// Holds the writable layer when the spec names a rootfs. Must not be below `rootfs`.
    pub overlay_dir: Option<PathBuf>,
    pub hostname: String,
}

/// Everything that a child does, in order. Printing it shows every step on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildPlan {
    /// Done before the gate, in this order. Empty for an exec.
    pub steps: Vec<Step>,
    /// The process behind the gate.
    pub process: ProcessPlan,
}

impl fmt::Display for ChildPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "{}", self.process)
    }
}

/// The plan of a new container.
pub fn launch_plan(spec: &LaunchSpec, host: &HostSupport, ctx: &PlanContext) -> Result<ChildPlan, Fault> {
    let process = process::of_launch(spec, host, ctx)?;
    let steps = rootfs::steps(spec, host, ctx)?;
    Ok(ChildPlan { steps, process })
}

/// The plan of a further process in the container that was launched from `parent`.
pub fn exec_plan(
    exec: &ExecSpec,
    parent: &LaunchSpec,
    host: &HostSupport,
    ctx: &PlanContext,
) -> Result<ChildPlan, Fault> {
    Ok(ChildPlan {
        steps: Vec::new(),
        process: process::of_exec(exec, parent, host, ctx)?,
    })
}

/// A text that can be handed to the kernel: without a null byte.
fn c_text(field: &str, text: &[u8]) -> Result<CString, Fault> {
    CString::new(text).map_err(|_| Fault::invalid(field, "holds a null byte"))
}

/// An absolute path without `..`, in its shortest form.
fn absolute(field: &str, path: &Path) -> Result<PathBuf, Fault> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(Fault::invalid(
            field,
            format!("{shown:?} is not an absolute path"),
        ));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Fault::invalid(field, format!("{shown:?} holds \"..\"")));
    }
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(Fault::invalid(
            field,
            format!("the path is longer than {PATH_BYTES_MAX} bytes"),
        ));
    }
    Ok(path.components().collect())
}

/// PATH_MAX of the kernel, which counts the ending null byte.
const PATH_BYTES_MAX: usize = 4095;

fn c_path(field: &str, path: &Path) -> Result<CString, Fault> {
    c_text(field, absolute(field, path)?.as_os_str().as_bytes())
}
