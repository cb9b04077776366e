//! A user namespace of the container's own: made first, entered last.
//!
//! Between the two all mounts are made with the host's rights, since binds, the overlay, procfs, device nodes and the
//! cgroups need them; what is made belongs to the container's root. Entering copies the mount namespace into one that
//! the user namespace owns, where every mount and every flag on it is locked, against SYS_ADMIN in the container as well
//! (mount_namespaces(7), "Restrictions on mount namespaces"). The pid namespace alone stays the host's: it has to be
//! made with the clone, and nothing in it asks for its owner but what a container shall not do (reboot(2), a new procfs).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::capability;
use kernel::device;
use kernel::mount;
use kernel::namespace::{self, NamespaceFlags};
use kernel::user_namespace::{self, MakeError};
use model::IdRange;

use super::Prepared;
use super::child::Failure;
use crate::plan::{OwnNetwork, Owners};
use crate::request::ChildFds;

pub(super) struct OwnIds {
    user: OwnedFd,
    root: u32,
    count: u32,
}

impl OwnIds {
    /// From here on what we make belongs to the container's root. But for the host's network we are in a network namespace
    /// that the user namespace owns: capabilities over a namespace are those over its owner.
    pub fn make(base: u32, count: u32, network: OwnNetwork) -> Result<Self, Failure> {
        let user = match network {
            OwnNetwork::Host => Self::made(base, count, false)?,
            OwnNetwork::New => Self::made(base, count, true)?,
            OwnNetwork::Given => namespace::own_network()
                .and_then(|given| namespace::owner(&given))
                .map_err(Failure::of("find the network namespace's owner"))?,
        };
        user_namespace::make_files_as(base).map_err(Failure::of("make files as the container's root"))?;
        Ok(Self {
            user,
            root: base,
            count,
        })
    }

    fn made(base: u32, count: u32, network: bool) -> Result<OwnedFd, Failure> {
        let failed = |error: MakeError| {
            let why = match &error {
                MakeError::Clone(Errno::ENOSPC) => "user.max_user_namespaces is reached".to_owned(),
                other => other.to_string(),
            };
            Failure::of("make user namespace")(error.errno()).because(why)
        };
        let made = user_namespace::make(base, count, network).map_err(failed)?;
        if let Some(network) = made.network {
            namespace::join(network, NamespaceFlags::NET).map_err(Failure::of("join network namespace"))?;
            namespace::bring_up_loopback().map_err(Failure::of("bring loopback up"))?;
        }
        Ok(made.user)
    }

    /// Lets the container's ids work on a detached tree.
    pub fn suit(&self, tree: BorrowedFd<'_>, owners: Owners) -> Result<(), Errno> {
        match owners {
            Owners::Same => Ok(()),
            Owners::Mapped => self.map(tree, true),
            Owners::Given => kernel::account::give(tree, self.root, self.root),
        }
    }

    pub fn map(&self, tree: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
        mount::map_ids(tree, self.user.as_fd(), recursive)
    }

    /// As it is outside; root's where there is no such group.
    pub fn terminals_group(&self) -> u32 {
        match device::TERMINALS_GROUP {
            group if group < self.count => self.root + group,
            _ => self.root,
        }
    }

    /// Becomes root in the namespace, which owns all others from then on.
    pub fn enter(self) -> Result<(), Failure> {
        user_namespace::enter(self.user.as_fd()).map_err(Failure::of("enter user namespace"))?;
        let owned = NamespaceFlags::MOUNT
            .and(NamespaceFlags::UTS)
            .and(NamespaceFlags::IPC)
            .and(NamespaceFlags::CGROUP);
        namespace::unshare(owned).map_err(Failure::of("unshare namespaces for the user namespace"))
    }
}

/// To be done while we are root on the host. The init is not protected from the end of memory either.
///
/// Programs reopen their output by name (`/dev/stdout`): the pipes must be theirs.
pub(super) fn before_entering(
    prepared: &mut Prepared,
    fds: &ChildFds,
    IdRange { base, .. }: IdRange,
) -> Result<(), Failure> {
    give_streams(fds, base, base)?;
    super::child::give_up_protection(prepared);
    Ok(())
}

/// A command that is not root reopens them too.
pub(super) fn give_streams(fds: &ChildFds, uid: u32, gid: u32) -> Result<(), Failure> {
    let pipes = [&fds.stdin, &fds.stdout, &fds.stderr].into_iter().flatten();
    for pipe in pipes {
        kernel::account::give(pipe.as_fd(), uid, gid)
            .map_err(Failure::of("give standard streams to user"))?;
    }
    Ok(())
}

/// A user namespace gives whoever enters it every capability over itself.
pub(super) fn after_entering(prepared: &mut Prepared) -> Result<(), Failure> {
    let (_, permitted) = capability::own().map_err(Failure::of("read capabilities"))?;
    prepared.permitted = permitted;
    prepared.plain_root = true;
    Ok(())
}

/// Why a place of the host can not be reached: the host's root is shown as it is, and its owners are strangers here.
pub(super) const CLOSED: &str = "a directory on the way is closed to the container's ids; for a sandbox: to users other than root on the host";

/// Why a file system does not let its files be seen under other ids.
pub(super) fn explain(errno: Errno) -> &'static str {
    match errno {
        Errno::EINVAL => "its file system, or one mounted below, can not map ids on this kernel",
        Errno::EPERM => "ids are mapped there already",
        _ => "map ids",
    }
}
