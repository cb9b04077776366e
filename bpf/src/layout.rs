//! The values of the pinned maps, as bpf/include/bulkhead/steering.h has them; sizes are checked on both sides.

/// Maps of another layout are not taken over.
pub const LAYOUT: u32 = 1;
/// Places for containers; place 0 is the host.
pub const SLOTS: u32 = 4096;
pub const DROP_REASONS: usize = 16;

/// Why a packet was refused; the order is that of `enum bh_drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    SourcePort,
    SourceAddress,
    SourceMac,
    Arp,
    NotIp,
    Protocol,
    Malformed,
    Fragment,
    Icmp,
    Echo,
    Multicast,
    Destination,
    EgressRate,
    IngressRate,
    Internal,
}

impl DropReason {
    pub const ALL: [Self; 15] = [
        Self::SourcePort,
        Self::SourceAddress,
        Self::SourceMac,
        Self::Arp,
        Self::NotIp,
        Self::Protocol,
        Self::Malformed,
        Self::Fragment,
        Self::Icmp,
        Self::Echo,
        Self::Multicast,
        Self::Destination,
        Self::EgressRate,
        Self::IngressRate,
        Self::Internal,
    ];

    /// Its name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourcePort => "foreign_source_port",
            Self::SourceAddress => "foreign_source_address",
            Self::SourceMac => "foreign_source_mac",
            Self::Arp => "arp",
            Self::NotIp => "not_ip",
            Self::Protocol => "protocol",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment_without_first",
            Self::Icmp => "icmp",
            Self::Echo => "echo_id_taken",
            Self::Multicast => "multicast",
            Self::Destination => "destination",
            Self::EgressRate => "egress_rate",
            Self::IngressRate => "ingress_rate",
            Self::Internal => "internal",
        }
    }

    /// Refused on the way into the container; the others on the way out.
    pub const fn is_ingress(self) -> bool {
        matches!(self, Self::IngressRate)
    }
}

pub const SLOT_INGRESS_QUEUE: u32 = 1 << 0;
pub const SLOT_EGRESS_RATE: u32 = 1 << 1;
pub const SLOT_INGRESS_RATE: u32 = 1 << 2;

pub const MORE_V4: u32 = 1 << 0;
pub const MORE_V6: u32 = 1 << 1;

/// `struct bh_slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Slot {
    pub ifindex: u32,
    pub flags: u32,
    pub peer_ifindex: u32,
    pub mac: [u8; 6],
    /// Major number of the discipline that shares the uplinks out; 0: none does.
    pub class_major: u16,
}

/// `struct bh_host`; addresses in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct HostAddresses {
    pub v4: [u8; 4],
    pub v4_uplink: u32,
    pub v6: [u8; 16],
    pub v6_uplink: u32,
    /// `MORE_V4`, `MORE_V6`: the map `addresses` has others of this family.
    pub more: u32,
}

/// `struct bh_counters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub drops: [u64; DROP_REASONS],
}

const _: () = {
    assert!(size_of::<Slot>() == 20);
    assert!(size_of::<HostAddresses>() == 32);
    assert!(size_of::<Counters>() == 160);
    assert!(DropReason::ALL.len() < DROP_REASONS + 1);
};

impl Counters {
    /// The sum with what another CPU has counted.
    pub fn add(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine += theirs;
        }
    }
}

/// Reads numbers in the order of the machine; what is too short reads as zeros.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    u32::from_ne_bytes(part.unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
    u64::from_ne_bytes(part.unwrap_or_default())
}

impl Slot {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mac = bytes.get(12..18)?.try_into().ok()?;
        Some(Self {
            ifindex: u32_at(bytes, 0),
            flags: u32_at(bytes, 4),
            peer_ifindex: u32_at(bytes, 8),
            mac,
            class_major: u16::from_ne_bytes(*bytes.get(18..)?.first_chunk()?),
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<Self>());
        for word in [self.ifindex, self.flags, self.peer_ifindex] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(self.mac);
        bytes.extend(self.class_major.to_ne_bytes());
        bytes
    }
}

impl HostAddresses {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<Self>());
        bytes.extend(self.v4);
        bytes.extend(self.v4_uplink.to_ne_bytes());
        bytes.extend(self.v6);
        bytes.extend(self.v6_uplink.to_ne_bytes());
        bytes.extend(self.more.to_ne_bytes());
        bytes
    }
}

impl Counters {
    pub fn read(bytes: &[u8]) -> Self {
        Self {
            rx_packets: u64_at(bytes, 0),
            rx_bytes: u64_at(bytes, 8),
            tx_packets: u64_at(bytes, 16),
            tx_bytes: u64_at(bytes, 24),
            drops: std::array::from_fn(|reason| u64_at(bytes, 32 + 8 * reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_sizes_of_the_header() {
        let slot = Slot {
            ifindex: 7,
            flags: 5,
            peer_ifindex: 2,
            mac: [1, 2, 3, 4, 5, 6],
            class_major: 0xb123,
        };
        assert_eq!(slot.bytes().len(), size_of::<Slot>());
        assert_eq!(Slot::read(&slot.bytes()), Some(slot));
        assert_eq!(HostAddresses::default().bytes().len(), size_of::<HostAddresses>());
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(at, reason as usize);
        }
    }
}
