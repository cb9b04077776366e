/*
 * What the steering programs and the agent both know: the values of the pinned maps.
 *
 * The Rust side is bpf/src/layout.rs; both sides check sizes and offsets at build time. Whoever changes one of these
 * changes BH_LAYOUT too: maps of another layout are not taken over.
 */
#ifndef BULKHEAD_STEERING_H
#define BULKHEAD_STEERING_H

#include <linux/types.h>

#define BH_LAYOUT 1

#define BH_PORTS 65536
/* Slot 0 is the host itself: what is counted there belongs to no container. */
#define BH_SLOTS 4096
#define BH_ADDRESSES 1024
#define BH_FRAGMENTS 16384
#define BH_ECHOES 16384

/* Who is refused what; the order is that of struct bh_counters.drops and of DropReason in Rust. */
enum bh_drop {
	BH_DROP_SOURCE_PORT = 0,
	BH_DROP_SOURCE_ADDRESS,
	BH_DROP_SOURCE_MAC,
	BH_DROP_ARP,
	BH_DROP_NOT_IP,
	BH_DROP_PROTOCOL,
	BH_DROP_MALFORMED,
	BH_DROP_FRAGMENT,
	BH_DROP_ICMP,
	BH_DROP_ECHO,
	BH_DROP_MULTICAST,
	BH_DROP_DESTINATION,
	BH_DROP_EGRESS_RATE,
	BH_DROP_INGRESS_RATE,
	BH_DROP_INTERNAL,
	BH_DROP_SPARE,
	BH_DROPS,
};

/* struct bh_slot.flags */
/* Deliver through the host end's queueing discipline, which shapes; else straight to the peer. */
#define BH_SLOT_INGRESS_QUEUE (1U << 0)
/* bandwidth.h looks at the rate state of this slot, by direction. */
#define BH_SLOT_EGRESS_RATE (1U << 1)
#define BH_SLOT_INGRESS_RATE (1U << 2)

/* One container. ifindex 0: nobody. */
struct bh_slot {
	__u32 ifindex; /* of the veth's host end */
	__u32 flags;
	__u32 peer_ifindex; /* of eth0, in the container's namespace */
	__u8 mac[6]; /* of eth0 */
	__u16 class_major; /* of the discipline that shares the uplinks out, where its class has the slot as minor; 0: none */
};

/* The addresses that nearly all packets have. The others are in the map `addresses`. */
struct bh_host {
	__u32 v4; /* network order; 0: none */
	__u32 v4_uplink;
	__u32 v6[4]; /* network order; 0: none */
	__u32 v6_uplink;
	__u32 more; /* BH_MORE_*: `addresses` has others of this family */
};
#define BH_MORE_V4 (1U << 0)
#define BH_MORE_V6 (1U << 1)

/* Key of `addresses`; IPv4 as ::ffff:a.b.c.d. */
struct bh_address_key {
	__u32 address[4];
};

/* uplink 0: an address of the host that no container has. */
struct bh_address {
	__u32 uplink;
	__u32 spare;
};

struct bh_counters {
	__u64 rx_packets; /* into the container */
	__u64 rx_bytes;
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 drops[BH_DROPS];
};

/* Later fragments have no ports: what was decided for the first is remembered. */
struct bh_fragment_key {
	__u32 source[4];
	__u32 destination[4];
	__u32 id;
	__u32 ifindex; /* where it came in: nobody decides for another's fragments */
	__u32 protocol;
};

struct bh_fragment {
	__u32 slot; /* whose: the receiver's from outside, the sender's otherwise */
	__u32 target; /* BH_TO_*, or the receiver's slot */
};
#define BH_TO_HOST 0xffffffffU
#define BH_TO_UPLINK 0xfffffffeU
/* Delivered to the container, and to the host as well. */
#define BH_TO_BOTH 0xfffffffdU

/* Which container asked. */
struct bh_echo_key {
	__u32 peer[4];
	__u16 id; /* network order */
	__u16 spare;
};

struct bh_echo {
	__u64 at; /* bpf_ktime_get_ns */
	__u32 slot;
	__u32 spare;
};

/* Index of the map `stages`, through which a newer agent replaces the programs without a gap. */
#define BH_STAGE_UPLINK 0
#define BH_STAGE_VETH 1
#define BH_STAGE_HOST_LO 2
#define BH_STAGE_CONTAINER_LO 3
#define BH_STAGES 4

_Static_assert(sizeof(struct bh_slot) == 20, "bh_slot");
_Static_assert(sizeof(struct bh_host) == 32, "bh_host");
_Static_assert(sizeof(struct bh_address_key) == 16, "bh_address_key");
_Static_assert(sizeof(struct bh_address) == 8, "bh_address");
_Static_assert(sizeof(struct bh_counters) == 160, "bh_counters");
_Static_assert(sizeof(struct bh_fragment_key) == 44, "bh_fragment_key");
_Static_assert(sizeof(struct bh_fragment) == 8, "bh_fragment");
_Static_assert(sizeof(struct bh_echo_key) == 20, "bh_echo_key");
_Static_assert(sizeof(struct bh_echo) == 16, "bh_echo");

#endif
