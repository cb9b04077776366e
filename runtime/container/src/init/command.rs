//! The command's process: from the clone to its first instruction.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use kernel::Errno;
use kernel::account;
use kernel::capability::{self, CapabilitySet};
use kernel::process::{self, Parentage, StringTable};
use kernel::procfs;
use kernel::pty;
use kernel::rlimit;
use kernel::shared_memory::{Numbers, SharedNumbers};
use kernel::signal;

use model::IdRange;

use super::Prepared;
use super::child::{Failure, credentials_file};
use super::own_ids;
use crate::channel::{self, STEP_EXECUTE};
use crate::plan::{GroupName, ProcessPlan, UserName};

/// Numeric identity of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Account files are small; one that is not is an attempt to make us grow.
const ACCOUNT_FILE_BYTES_MAX: u64 = 4 << 20;

pub(super) fn read_text(fd: OwnedFd) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    let file = File::from(fd);
    let failed = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Errno::EINVAL);
    }
    let count = file
        .take(ACCOUNT_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if count as u64 > ACCOUNT_FILE_BYTES_MAX {
        return Err(Errno::EFBIG);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One write(2) of few bytes, as kernel interfaces want it.
pub(super) fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    kernel::process::write_once(fd, bytes)
}

/// Looks the user up in the container's own files.
pub(super) fn credentials(plan: &ProcessPlan) -> Result<Credentials, Failure> {
    let Some(user) = &plan.user else {
        let home = crate::plan::ROOT_HOME.to_owned();
        return Ok(Credentials {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home,
        });
    };
    let passwd = credentials_file(PASSWD)?.unwrap_or_default();
    let found = account::find_account(&passwd, |name, uid| match user {
        UserName::Id(id) => uid == *id,
        UserName::Name(wanted) => name == wanted,
    });
    let unknown = |what: &str, name: &str, file| {
        Failure::at("look up", file)(Errno::UnknownErrno).because(format!("no {what} {name:?}"))
    };
    let mut credentials = match (&found, user) {
        (Some(account), _) => Credentials {
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
            home: account.home.clone(),
        },
        (None, UserName::Id(uid)) => Credentials {
            uid: *uid,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
        },
        (None, UserName::Name(name)) => return Err(unknown("user", name, PASSWD)),
    };
    match &plan.group {
        Some(GroupName::Id(gid)) => credentials.gid = *gid,
        Some(GroupName::Name(name)) => {
            let groups = credentials_file(GROUP)?.unwrap_or_default();
            credentials.gid =
                account::find_group(&groups, name).ok_or_else(|| unknown("group", name, GROUP))?;
        }
        None => {
            if let Some(account) = &found {
                let groups = credentials_file(GROUP)?.unwrap_or_default();
                credentials.groups = account::supplementary_groups(&groups, &account.name);
            }
        }
    }
    check_ids(plan, &credentials)?;
    Ok(credentials)
}

/// The kernel would only call it an invalid argument.
fn check_ids(plan: &ProcessPlan, credentials: &Credentials) -> Result<(), Failure> {
    let Some(IdRange { count, .. }) = plan.ids else {
        return Ok(());
    };
    let mut all = [credentials.uid, credentials.gid]
        .into_iter()
        .chain(credentials.groups.iter().copied());
    match all.find(|id| *id >= count) {
        None => Ok(()),
        Some(id) => Err(Failure::of("become user")(Errno::EINVAL)
            .because(format!("{id} is not among the container's {count} ids"))),
    }
}

/// What becomes descriptors 0, 1 and 2.
pub(super) struct Streams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub terminal: bool,
}

/// Steps of the command's process, for the report of the one that failed.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Session,
    Streams,
    Terminal,
    Rlimit(u32),
    User,
    Capabilities,
    Directory,
    Execute,
}

/// All that the command's process needs, made before the clone: it allocates nothing.
struct Context<'a> {
    plan: &'a ProcessPlan,
    credentials: &'a Credentials,
    streams: &'a Streams,
    prepared: &'a Prepared,
    candidates: &'a [CString],
    arguments: StringTable<'a>,
    environment: StringTable<'a>,
    /// Stage, its detail, errno; zeroes: none. Numbers, since a process of the container may have written them.
    failure: &'a Numbers,
}

impl Stage {
    /// From 1, and what belongs to it.
    fn numbers(self) -> (i32, i32) {
        match self {
            Self::Session => (1, 0),
            Self::Streams => (2, 0),
            Self::Terminal => (3, 0),
            Self::Rlimit(resource) => (4, resource as i32),
            Self::User => (5, 0),
            Self::Capabilities => (6, 0),
            Self::Directory => (7, 0),
            Self::Execute => (8, 0),
        }
    }

    fn from_numbers(number: i32, detail: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Session,
            2 => Self::Streams,
            3 => Self::Terminal,
            4 => Self::Rlimit(detail as u32),
            5 => Self::User,
            6 => Self::Capabilities,
            7 => Self::Directory,
            8 => Self::Execute,
            _ => return None,
        })
    }
}

fn note(place: &Numbers, stage: Stage, errno: Errno) {
    let (number, detail) = stage.numbers();
    for (slot, value) in place.iter().zip([number, detail, errno as i32]) {
        slot.store(value, Ordering::Relaxed);
    }
}

fn noted(place: &Numbers) -> Option<(Stage, Errno)> {
    let [number, detail, errno] = place.each_ref().map(|slot| slot.load(Ordering::Relaxed));
    Stage::from_numbers(number, detail).map(|stage| (stage, Errno::from_raw(errno)))
}

/// A process that was made; with a failure it has already ended, but is still to be reaped.
pub(super) struct Spawned {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub failure: Option<Failure>,
}

/// Programs reopen their terminal by name: it must be theirs.
pub(super) fn give_terminal(streams: &Streams, credentials: &Credentials) -> Result<(), Failure> {
    if !streams.terminal {
        return Ok(());
    }
    pty::give_to(streams.stdin.as_fd(), credentials.uid).map_err(Failure::of("give terminal to user"))
}

/// Runs the command in a process of its own and returns once its program is executing.
///
/// A process that is not our child ([`Parentage::MyParents`]) is born among others, who may have been given
/// SYS_PTRACE: its memory must not be ours.
pub(super) fn spawn(
    plan: &ProcessPlan,
    credentials: &Credentials,
    streams: &Streams,
    parentage: Parentage,
    prepared: &Prepared,
) -> Result<Spawned, Failure> {
    let home = CString::new(format!("HOME={}", credentials.home)).unwrap_or_default();
    let mut environment: Vec<&CStr> = plan.environment.iter().map(CString::as_c_str).collect();
    if plan.home_from_account {
        environment.push(&home);
    }
    let program = plan
        .command
        .first()
        .ok_or_else(|| Failure::of(STEP_EXECUTE)(Errno::EINVAL))?;
    let candidates = candidates(program, &plan.search_path);
    let (own, shared);
    let failure = match parentage {
        Parentage::Mine => {
            own = Numbers::default();
            &own
        }
        Parentage::MyParents => {
            shared = SharedNumbers::new().map_err(Failure::of("share memory with the command"))?;
            shared.get()
        }
    };
    let mut context = Context {
        plan,
        credentials,
        streams,
        prepared,
        candidates: &candidates,
        arguments: StringTable::new(plan.command.iter().map(CString::as_c_str)),
        environment: StringTable::new(environment),
        failure,
    };
    let spawned = match parentage {
        Parentage::Mine => process::spawn_suspended(parentage, &mut context, become_command),
        Parentage::MyParents => process::spawn_apart(parentage, &mut context, become_command),
    };
    let (pid, pidfd) = spawned.map_err(Failure::of("clone the command"))?;
    let failure = noted(failure).map(|(stage, errno)| describe(stage, errno, plan, program));
    Ok(Spawned { pid, pidfd, failure })
}

fn describe(stage: Stage, errno: Errno, plan: &ProcessPlan, program: &CString) -> Failure {
    match stage {
        Stage::Session => Failure::of("make session")(errno),
        Stage::Streams => Failure::of("place standard streams")(errno),
        Stage::Terminal => Failure::of("take controlling terminal")(errno),
        Stage::Rlimit(resource) => {
            let failure = Failure::of("set resource limit")(errno).because(rlimit::name(resource));
            match errno {
                Errno::EPERM => {
                    let name = rlimit::name(resource);
                    failure.because(format!(
                        "{name}: above the agent's own hard limit, needs CAP_SYS_RESOURCE"
                    ))
                }
                _ => failure,
            }
        }
        Stage::User => Failure::of("become user")(errno),
        Stage::Capabilities => Failure::of("set capabilities")(errno),
        Stage::Directory => {
            let failure = Failure::at("change directory to", plan.workdir.as_bytes())(errno);
            match (errno, plan.ids) {
                (Errno::EACCES, Some(_)) => failure.because(own_ids::CLOSED),
                _ => failure,
            }
        }
        Stage::Execute => Failure::at(STEP_EXECUTE, program.as_bytes())(errno),
    }
}

/// The paths to try, in order.
fn candidates(program: &CString, search_path: &[CString]) -> Vec<CString> {
    if crate::plan::is_path(program) {
        return vec![program.clone()];
    }
    let join = |directory: &CString| {
        let mut path = directory.as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(program.as_bytes());
        CString::new(path).ok()
    };
    search_path.iter().filter_map(join).collect()
}

/// In the new process, which may share the init's memory: ends in exec or in a return.
fn become_command(context: &mut Context<'_>) -> i32 {
    let (stage, errno) = match enter(context) {
        Err(failed) => failed,
        Ok(()) => (Stage::Execute, execute(context)),
    };
    note(context.failure, stage, errno);
    channel::FAILED_STATUS
}

fn enter(context: &Context<'_>) -> Result<(), (Stage, Errno)> {
    let Context {
        plan,
        credentials,
        streams,
        prepared,
        ..
    } = context;
    process::new_session().map_err(|errno| (Stage::Session, errno))?;
    for (number, fd) in [&streams.stdin, &streams.stdout, &streams.stderr]
        .into_iter()
        .enumerate()
    {
        process::place_fd(fd.as_fd(), number as i32).map_err(|errno| (Stage::Streams, errno))?;
    }
    // Nothing of ours or of the agent's may be seen by the command (the class of CVE-2024-21626).
    process::close_from(3).map_err(|errno| (Stage::Streams, errno))?;
    if streams.terminal {
        pty::control_stdin().map_err(|errno| (Stage::Terminal, errno))?;
    }
    if prepared.oom_score_lowered {
        let _ = procfs::set_own_oom_score_adjustment(0);
    }
    for limit in &plan.rlimits {
        rlimit::set(limit.resource, limit.soft, limit.hard)
            .map_err(|errno| (Stage::Rlimit(limit.resource), errno))?;
    }
    become_user(plan, credentials, prepared.plain_root)?;
    // As the user: a directory that it may not enter is refused.
    process::change_directory(&plan.workdir).map_err(|errno| (Stage::Directory, errno))?;
    process::set_file_mode_mask(FILE_MODE_MASK);
    signal::unblock_all();
    Ok(())
}

const FILE_MODE_MASK: u32 = 0o022;

fn become_user(
    plan: &ProcessPlan,
    credentials: &Credentials,
    plain_root: bool,
) -> Result<(), (Stage, Errno)> {
    let user = |errno| (Stage::User, errno);
    let capabilities = |errno| (Stage::Capabilities, errno);
    let none = CapabilitySet::EMPTY;
    let ambient = CapabilitySet(plan.ambient);
    let keep = !credentials.is_root() && ambient != none;
    if keep {
        process::set_keep_capabilities(true).map_err(user)?;
    }
    if !(plain_root && credentials.is_plain_root()) {
        process::become_user(credentials.uid, credentials.gid, &credentials.groups).map_err(user)?;
    }
    if credentials.is_root() {
        let granted = CapabilitySet(plan.capabilities);
        return capability::set(granted, granted, none).map_err(capabilities);
    }
    if !keep {
        return capability::set(none, none, none).map_err(capabilities);
    }
    // Exec by a user who is not root keeps only what is ambient, and ambient must be inheritable.
    capability::set(ambient, ambient, ambient).map_err(capabilities)?;
    capability::raise_ambient(ambient).map_err(capabilities)
}

/// Tries each candidate as execvp(3) does: one that may not be executed is remembered, the search
/// goes on.
fn execute(context: &Context<'_>) -> Errno {
    let mut answer = Errno::ENOENT;
    for candidate in context.candidates {
        match process::execute(candidate, &context.arguments, &context.environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => answer = Errno::EACCES,
            errno => return errno,
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_names_are_searched() {
        let path = [c"/bin".to_owned(), c"/usr/bin".to_owned()];
        assert_eq!(candidates(&c"./x".to_owned(), &path), [c"./x".to_owned()]);
        assert_eq!(
            candidates(&c"x".to_owned(), &path),
            [c"/bin/x".to_owned(), c"/usr/bin/x".to_owned()]
        );
    }
}
