//! The command of a container or of an exec: who it is, what it may do, what it sees.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};

use kernel::capability::{self, CapabilitySet};
use kernel::rlimit;
use model::{
    Capabilities, ExecSpec, Fault, HostSupport, IdRange, LaunchSpec, PortGrant, Rlimit, Seccomp, TerminalSize,
};
use serde::{Deserialize, Serialize};

use super::{PlanContext, c_path, c_text, own_ids};

/// A user as the spec named it; looked up in the container's own `etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserName {
    Id(u32),
    Name(String),
}

/// A group as the spec named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupName {
    Id(u32),
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RlimitPlan {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    pub command: Vec<CString>,
    /// `NAME=VALUE` each.
    pub environment: Vec<CString>,
    /// The environment names no HOME: the account's is added.
    pub home_from_account: bool,
    /// Where a command without `/` is looked for, in order.
    pub search_path: Vec<CString>,
    /// Absent: root, without supplementary groups.
    pub user: Option<UserName>,
    pub group: Option<GroupName>,
    pub workdir: CString,
    /// Taken out of the bounding set.
    pub bounding_drop: u64,
    /// Effective and permitted of a command run by root.
    pub capabilities: u64,
    /// Effective, permitted, inheritable and ambient of a command run by another user.
    pub ambient: u64,
    pub rlimits: Vec<RlimitPlan>,
    /// Directory to be given to the user that the command runs as; none for exec.
    pub sandbox: Option<PathBuf>,
    pub seccomp: bool,
    pub terminal: Option<TerminalSize>,
    /// The container's own ids, as they are outside.
    pub ids: Option<IdRange>,
}

/// What root in a container may do: change owners and modes of its own files, take ports below 1024,
/// become its service's user, signal its own processes, confine itself further. Not there although
/// others grant it: MKNOD (device nodes on a volume), NET_RAW (forged packets), SETFCAP, AUDIT_WRITE
/// (the host's audit log).
pub fn default_capabilities() -> CapabilitySet {
    CapabilitySet::of(&[
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ])
}

const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One string of an exec may not be longer: MAX_ARG_STRLEN of Linux.
const STRING_BYTES_MAX: usize = (128 << 10) - 1;
/// All strings of an exec together: a third of the usual stack limit is refused by the kernel much
/// later and less clearly.
const STRINGS_BYTES_MAX: usize = 1 << 20;

pub(super) fn of_launch(
    spec: &LaunchSpec,
    host: &HostSupport,
    ctx: &PlanContext,
) -> Result<ProcessPlan, Fault> {
    let possible = possible_capabilities(spec, host);
    let (granted, added) = capabilities(&spec.capabilities, possible)?;
    if spec.seccomp == Seccomp::Default && !host.seccomp {
        return Err(Fault::unsupported(
            "seccomp",
            "the kernel has no system call filter (CONFIG_SECCOMP_FILTER)",
        )
        .remedy("--seccomp unconfined runs without one"));
    }
    let environment = environment(ctx, spec.terminal.is_some(), spec, &[])?;
    let ids = own_ids::check(spec, host)?;
    let (user, group) = user(spec.user.as_deref(), ids)?;
    let workdir = spec.workdir.as_deref().unwrap_or(&ctx.sandbox_target);
    let plan = ProcessPlan {
        command: command(&spec.command)?,
        home_from_account: !environment.contains_key("HOME"),
        search_path: search_path(&environment)?,
        environment: strings(&environment)?,
        user,
        group,
        workdir: c_path("workdir", workdir)?,
        bounding_drop: possible & !granted.0,
        capabilities: granted.0,
        ambient: added.0,
        rlimits: rlimits(&spec.rlimits)?,
        sandbox: Some(ctx.sandbox_target.clone()),
        seccomp: spec.seccomp == Seccomp::Default,
        terminal: spec.terminal,
        ids,
    };
    check_size(&plan)?;
    Ok(plan)
}

pub(super) fn of_exec(
    exec: &ExecSpec,
    parent: &LaunchSpec,
    host: &HostSupport,
    ctx: &PlanContext,
) -> Result<ProcessPlan, Fault> {
    let possible = possible_capabilities(parent, host);
    let (granted, added) = capabilities(&parent.capabilities, possible)?;
    let environment = environment(ctx, exec.terminal.is_some(), parent, &exec.env)?;
    let ids = own_ids::check(parent, host)?;
    let (user, group) = user(exec.user.as_deref().or(parent.user.as_deref()), ids)?;
    let workdir = exec
        .workdir
        .as_deref()
        .or(parent.workdir.as_deref())
        .unwrap_or(&ctx.sandbox_target);
    let plan = ProcessPlan {
        command: command(&exec.command)?,
        home_from_account: !environment.contains_key("HOME"),
        search_path: search_path(&environment)?,
        environment: strings(&environment)?,
        user,
        group,
        workdir: c_path("workdir", workdir)?,
        bounding_drop: possible & !granted.0,
        capabilities: granted.0,
        ambient: added.0,
        rlimits: rlimits(&parent.rlimits)?,
        sandbox: None,
        seccomp: parent.seccomp == Seccomp::Default,
        terminal: exec.terminal,
        ids,
    };
    check_size(&plan)?;
    Ok(plan)
}

fn command(words: &[String]) -> Result<Vec<CString>, Fault> {
    match words.first() {
        None => return Err(Fault::invalid("command", "must not be empty")),
        Some(program) if program.is_empty() => {
            return Err(Fault::invalid(
                "command.0",
                "the program's name must not be empty",
            ));
        }
        Some(_) => {}
    }
    let word = |(index, word): (usize, &String)| {
        let field = format!("command.{index}");
        if word.len() > STRING_BYTES_MAX {
            return Err(Fault::invalid(
                field,
                format!("longer than {STRING_BYTES_MAX} bytes"),
            ));
        }
        c_text(&field, word.as_bytes())
    };
    words.iter().enumerate().map(word).collect()
}

fn check_size(plan: &ProcessPlan) -> Result<(), Fault> {
    let bytes: usize = plan
        .command
        .iter()
        .chain(&plan.environment)
        .map(|text| text.count_bytes() + 1)
        .sum();
    if bytes > STRINGS_BYTES_MAX {
        let message =
            format!("command and environment are {bytes} bytes long, at most {STRINGS_BYTES_MAX} fit");
        return Err(Fault::invalid("env", message));
    }
    Ok(())
}

/// The small default environment and the container's ports, overridden by the spec's, overridden by the exec's.
fn environment(
    ctx: &PlanContext,
    terminal: bool,
    spec: &LaunchSpec,
    more: &[(String, String)],
) -> Result<BTreeMap<String, String>, Fault> {
    let sandbox = ctx.sandbox_target.to_string_lossy().into_owned();
    let mut all: BTreeMap<String, String> = [
        ("PATH", SEARCH_PATH.to_owned()),
        ("HOSTNAME", ctx.hostname.clone()),
        ("BULKHEAD_CONTAINER_ID", ctx.id.to_string()),
        ("BULKHEAD_SANDBOX", sandbox.clone()),
        ("MESOS_SANDBOX", sandbox),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if terminal {
        all.insert("TERM".to_owned(), "xterm".to_owned());
    }
    all.extend(spec.grant.iter().flat_map(PortGrant::environment));
    for (index, (name, value)) in spec.env.iter().chain(more).enumerate() {
        let field = || format!("env.{index}");
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Fault::invalid(
                field(),
                format!("{name:?} is not the name of a variable"),
            ));
        }
        if value.contains('\0') {
            return Err(Fault::invalid(
                field(),
                format!("the value of {name} holds a null byte"),
            ));
        }
        if name.len() + value.len() + 1 > STRING_BYTES_MAX {
            return Err(Fault::invalid(
                field(),
                format!("{name} is longer than {STRING_BYTES_MAX} bytes"),
            ));
        }
        all.insert(name.clone(), value.clone());
    }
    Ok(all)
}

fn strings(environment: &BTreeMap<String, String>) -> Result<Vec<CString>, Fault> {
    environment
        .iter()
        .map(|(name, value)| c_text("env", format!("{name}={value}").as_bytes()))
        .collect()
}

fn search_path(environment: &BTreeMap<String, String>) -> Result<Vec<CString>, Fault> {
    let path = environment.get("PATH").map_or(SEARCH_PATH, String::as_str);
    // An empty element would mean the current directory: somebody else's file.
    path.split(':')
        .filter(|part| part.starts_with('/'))
        .map(|part| c_text("env", part.as_bytes()))
        .collect()
}

/// `NAME`, `UID`, `NAME:GROUP`, `UID:GID` and mixtures.
fn user(text: Option<&str>, ids: Option<IdRange>) -> Result<(Option<UserName>, Option<GroupName>), Fault> {
    let Some(text) = text else { return Ok((None, None)) };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = match account(text, user, ids)? {
        (_, Some(id)) => UserName::Id(id),
        (name, None) => UserName::Name(name),
    };
    let group = match group.map(|group| account(text, group, ids)).transpose()? {
        None => None,
        Some((_, Some(id))) => Some(GroupName::Id(id)),
        Some((name, None)) => Some(GroupName::Name(name)),
    };
    Ok((Some(user), group))
}

/// A name, and its number when it is one.
fn account(whole: &str, word: &str, ids: Option<IdRange>) -> Result<(String, Option<u32>), Fault> {
    let refuse = |why: &str| Err(Fault::invalid("user", format!("{whole:?}: {why}")));
    if word.is_empty() {
        return refuse("an empty name");
    }
    if word
        .chars()
        .any(|c| c == ':' || c == '/' || c == ',' || c.is_control() || c.is_whitespace())
    {
        return refuse("a name holds a character that none may");
    }
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok((word.to_owned(), None));
    }
    match word.parse() {
        // The last number means "leave as it is" to the kernel: it would stay root.
        Ok(u32::MAX) | Err(_) => refuse("the number is out of range (from 0 to 4294967294)"),
        Ok(id) if ids.is_some_and(|ids| id >= ids.count) => {
            refuse("the number is not among the container's own ids (see --userns)")
        }
        Ok(id) => Ok((word.to_owned(), Some(id))),
    }
}

/// What there is to be granted. A user namespace has all capabilities, over itself, whatever the agent has.
fn possible_capabilities(spec: &LaunchSpec, host: &HostSupport) -> u64 {
    match spec.userns {
        Some(_) => u64::MAX >> (63 - host.last_capability.min(63)),
        None => host.bounding_capabilities,
    }
}

/// The set granted to root in the container, and what was added by name.
fn capabilities(wanted: &Capabilities, possible: u64) -> Result<(CapabilitySet, CapabilitySet), Fault> {
    let mut granted = default_capabilities().0;
    let (drop_all, dropped) = named("capabilities.drop", &wanted.drop)?;
    let (add_all, added) = named("capabilities.add", &wanted.add)?;
    if let Some(missing) = CapabilitySet(added & !possible).numbers().next() {
        let name = capability::name(missing).unwrap_or("unknown");
        let fault = Fault::unsupported(
            "capabilities.add",
            format!("{name} is not in the bounding set of the agent"),
        );
        return Err(fault.remedy(format!(
            "start the agent with --allow-capabilities={name}; a unit's CapabilityBoundingSet= must have it too"
        )));
    }
    if drop_all {
        granted = 0;
    }
    if add_all {
        granted = possible;
    }
    granted = (granted & !dropped | added & !dropped) & possible;
    let extra = if add_all { granted } else { added & granted };
    Ok((CapabilitySet(granted), CapabilitySet(extra)))
}

fn named(field: &str, names: &[String]) -> Result<(bool, u64), Fault> {
    let mut all = false;
    let mut set = 0;
    for name in names {
        if name.eq_ignore_ascii_case("all") {
            all = true;
            continue;
        }
        let number = capability::number(name).ok_or_else(|| {
            Fault::invalid(field, format!("{name:?} is not a capability")).remedy("see capabilities(7)")
        })?;
        set |= 1 << number;
    }
    Ok((all, set))
}

fn rlimits(wanted: &[Rlimit]) -> Result<Vec<RlimitPlan>, Fault> {
    let mut plans: Vec<RlimitPlan> = Vec::new();
    for (index, limit) in wanted.iter().enumerate() {
        let field = format!("rlimits.{index}");
        let resource = rlimit::number(&limit.name).ok_or_else(|| {
            let names: Vec<&str> = rlimit::names().collect();
            Fault::invalid(&field, format!("{:?} is not a resource limit", limit.name))
                .remedy(format!("known are {}", names.join(", ")))
        })?;
        let soft = limit.soft.unwrap_or(rlimit::UNLIMITED);
        let hard = limit.hard.unwrap_or(rlimit::UNLIMITED);
        if soft > hard {
            return Err(Fault::invalid(
                field,
                format!("{}: the soft limit is above the hard one", limit.name),
            ));
        }
        if plans.iter().any(|plan| plan.resource == resource) {
            return Err(Fault::invalid(field, format!("{} is given twice", limit.name)));
        }
        plans.push(RlimitPlan { resource, soft, hard });
    }
    Ok(plans)
}

impl fmt::Display for ProcessPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |mask: u64| CapabilitySet(mask).describe();
        writeln!(f, "drop from the bounding set {}", hex(self.bounding_drop))?;
        writeln!(f, "no new privileges")?;
        if self.seccomp {
            writeln!(f, "filter system calls")?;
        }
        if let Some(size) = self.terminal {
            writeln!(f, "terminal of {} rows, {} columns", size.rows, size.columns)?;
        }
        writeln!(f, "wait at the gate")?;
        for limit in &self.rlimits {
            let shown = |value| {
                if value == rlimit::UNLIMITED {
                    "unlimited".to_owned()
                } else {
                    format!("{value}")
                }
            };
            writeln!(
                f,
                "limit {} to {}:{}",
                rlimit::name(limit.resource),
                shown(limit.soft),
                shown(limit.hard)
            )?;
        }
        match (&self.user, &self.group) {
            (None, _) => writeln!(f, "user root")?,
            (Some(user), None) => writeln!(f, "user {user}")?,
            (Some(user), Some(group)) => writeln!(f, "user {user}:{group}")?,
        }
        writeln!(
            f,
            "capabilities {} (not root: {})",
            hex(self.capabilities),
            hex(self.ambient)
        )?;
        writeln!(f, "change directory to {}", self.workdir.to_string_lossy())?;
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        // Values may be secrets: names only.
        let names: Vec<_> = self
            .environment
            .iter()
            .map(|text| text.to_string_lossy().split('=').next().unwrap_or("").to_owned())
            .collect();
        writeln!(f, "environment {}", names.join(" "))?;
        write!(f, "execute {words:?} found in {}", list_paths(&self.search_path))
    }
}

fn list_paths(paths: &[CString]) -> String {
    paths
        .iter()
        .map(|path| path.to_string_lossy())
        .collect::<Vec<_>>()
        .join(":")
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Root's home when nobody says otherwise.
pub(crate) const ROOT_HOME: &str = "/root";

/// Whether a command's first word is a path rather than a name to look up.
pub(crate) fn is_path(program: &CString) -> bool {
    Path::new(&*program.to_string_lossy()).components().count() > 1 || program.as_bytes().contains(&b'/')
}
