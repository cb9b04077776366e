//! Which queueing discipline an interface has at its root: its own, somebody's, ours.
//!
//! Kernel: net/sched/sch_api.c (tc_get_qdisc).

use super::NetlinkError;
use super::traffic::{Handle, TrafficControl, attributes, message, tcmsg};

/// A root discipline that somebody has put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDiscipline {
    pub handle: Handle,
    pub kind: String,
}

const TCA_KIND: u16 = 1;

impl TrafficControl {
    /// `None`: the interface has what the kernel gives it by itself, which has no handle.
    pub fn root(&self, ifindex: u32) -> Result<Option<RootDiscipline>, NetlinkError> {
        let mut request = Vec::new();
        // Kernels before 6.11 tell the asker only what he would hear of anyway (qdisc_notify, NLM_F_ECHO).
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_ECHO;
        message(&mut request, libc::RTM_GETQDISC, flags, 1, |body| {
            tcmsg(body, ifindex, 0, Handle::ROOT.0, 0);
        });
        let mut found = None;
        let asked = self.dump(&request, |body| found = found.take().or_else(|| discipline(body)));
        match asked {
            Err(error) if error.errno() == Some(crate::Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found.filter(|root: &RootDiscipline| root.handle.0 != 0)),
        }
    }

    /// Of all interfaces that have one which is not the kernel's own, by index.
    pub fn roots(&self) -> Result<Vec<(u32, RootDiscipline)>, NetlinkError> {
        let mut request = Vec::new();
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        message(&mut request, libc::RTM_GETQDISC, flags, 1, |body| {
            tcmsg(body, 0, 0, 0, 0)
        });
        let mut roots = Vec::new();
        self.dump(&request, |body| {
            let word = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
            if let (Some(index), Some(parent), Some(root)) = (word(4), word(12), discipline(body))
                && parent == Handle::ROOT.0
                && root.handle.0 != 0
            {
                roots.push((index, root));
            }
        })?;
        Ok(roots)
    }
}

fn discipline(body: &[u8]) -> Option<RootDiscipline> {
    let handle = u32::from_ne_bytes(*body.get(8..)?.first_chunk()?);
    let (_, kind) = attributes(body.get(20..)?).find(|(kind, _)| *kind == TCA_KIND)?;
    Some(RootDiscipline {
        handle: Handle(handle),
        kind: String::from_utf8_lossy(kind).trim_end_matches('\0').to_owned(),
    })
}
