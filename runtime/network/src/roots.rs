//! What interfaces have as their root discipline: ours, the kernel's, somebody's; and how one is changed.

use kernel::Errno;
use kernel::netlink::traffic::{Change, TrafficControl};
use kernel::netlink::{NetlinkError, RootDiscipline};

use crate::NetworkError;
use crate::host_network::Uplink;
use crate::shares_plan::major;

const CHANGES_AT_ONCE: usize = 64;

/// What an uplink has.
pub enum Root {
    Ours,
    /// What the kernel has given it.
    Kernels,
    /// Somebody's, of this kind.
    Foreign(String),
    /// The interface does not exist any more.
    Gone,
}

impl Root {
    pub fn of(traffic: &TrafficControl, uplink: &Uplink, major: u16) -> Result<Self, NetworkError> {
        match traffic.root(uplink.index) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(Self::Gone),
            Err(error) => Err(failed(uplink)(error)),
            Ok(None) => Ok(Self::Kernels),
            Ok(Some(root)) if is_ours(&root, major) => Ok(Self::Ours),
            Ok(Some(root)) => Ok(Self::Foreign(root.kind)),
        }
    }
}

/// All of them, whatever one meets with.
pub fn first_error<T>(
    all: impl IntoIterator<Item = T>,
    mut work: impl FnMut(T) -> Result<(), NetworkError>,
) -> Result<(), NetworkError> {
    let mut first = Ok(());
    for one in all {
        let done = work(one);
        first = first.and(done);
    }
    first
}

/// Takes the disciplines of this instance from all interfaces but those of `kept`: the kernel puts its own back. All are looked
/// at, since an uplink of an earlier agent may be none any more.
pub fn remove_but(instance: &str, kept: &[Uplink]) -> Result<(), NetworkError> {
    let failed = |operation: String| move |source| NetworkError::Netlink { operation, source };
    let operation = "look for interfaces that were shared out";
    let traffic = TrafficControl::open().map_err(failed(operation.to_owned()))?;
    let roots = traffic.roots().map_err(failed(operation.to_owned()))?;
    let former = roots.into_iter().filter(|(index, root)| {
        is_ours(root, major(instance)) && !kept.iter().any(|uplink| uplink.index == *index)
    });
    first_error(former, |(index, _)| {
        match traffic.change(index, &[Change::RemoveRoot]) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
            other => other.map_err(failed(format!(
                "take the discipline of interface {index} away, which is shared out no more"
            ))),
        }
    })
}

fn is_ours(root: &RootDiscipline, major: u16) -> bool {
    root.kind == "htb" && root.handle.0 == u32::from(major) << 16
}

pub fn open(name: &str) -> Result<TrafficControl, NetworkError> {
    TrafficControl::open().map_err(|source| NetworkError::Netlink {
        operation: format!("open a socket for the discipline of uplink {name}"),
        source,
    })
}

/// Some at a time: the acknowledgements of a thousand do not fit into a socket's buffer.
pub fn change(traffic: &TrafficControl, uplink: &Uplink, changes: &[Change<'_>]) -> Result<(), NetworkError> {
    for some in changes.chunks(CHANGES_AT_ONCE) {
        traffic.change(uplink.index, some).map_err(failed(uplink))?;
    }
    Ok(())
}

pub fn failed(uplink: &Uplink) -> impl FnOnce(NetlinkError) -> NetworkError {
    let operation = format!(
        "share uplink {} out (it needs CONFIG_NET_SCH_HTB and CONFIG_NET_CLS_BPF, or their modules)",
        uplink.name
    );
    move |source| NetworkError::Netlink { operation, source }
}
