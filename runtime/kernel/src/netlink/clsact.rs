//! What is at an interface's clsact: filters that look at each packet as it comes in or goes out.
//!
//! Kernel: include/uapi/linux/{pkt_sched,pkt_cls}.h, net/sched/{cls_api,sch_ingress}.c.

use super::NetlinkError;
use super::traffic::{TrafficControl, message, tcmsg};

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

impl TrafficControl {
    /// The priorities of the filters at an interface's ingress; the smallest is asked first. None without a clsact.
    pub fn ingress_filters(&self, ifindex: u32) -> Result<Vec<u16>, NetlinkError> {
        self.filters(ifindex, INGRESS)
    }

    fn filters(&self, ifindex: u32, parent: u32) -> Result<Vec<u16>, NetlinkError> {
        let mut request = Vec::new();
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        message(&mut request, libc::RTM_GETTFILTER, flags, 1, |body| {
            tcmsg(body, ifindex, 0, parent, 0);
        });
        let mut priorities: Vec<u16> = Vec::new();
        self.dump(&request, |body| {
            // struct tcmsg.tcm_info: priority and protocol.
            let info = body.get(16..20).and_then(|bytes| bytes.first_chunk());
            priorities.extend(info.map(|bytes| (u32::from_ne_bytes(*bytes) >> 16) as u16));
        })?;
        priorities.dedup();
        Ok(priorities)
    }

    /// Takes the clsact away if nothing is at it, on either side. True: it was, or there was none.
    pub fn remove_unused_clsact(&self, ifindex: u32) -> Result<bool, NetlinkError> {
        for parent in [INGRESS, EGRESS] {
            if !self.filters(ifindex, parent)?.is_empty() {
                return Ok(false);
            }
        }
        let mut request = Vec::new();
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        message(&mut request, libc::RTM_DELQDISC, flags, 1, |body| {
            tcmsg(body, ifindex, CLSACT_HANDLE, CLSACT, 0);
        });
        match self.dump(&request, |_| {}) {
            // Gone meanwhile, by another's hand.
            Err(error) if error.errno() == Some(crate::Errno::EINVAL) => Ok(true),
            other => other.map(|()| true),
        }
    }
}
