/*
 * What the bandwidth programs and the agent both know. The Rust side is bpf/src/bandwidth.rs; both check sizes.
 */
#ifndef BULKHEAD_BANDWIDTH_H
#define BULKHEAD_BANDWIDTH_H

#include <linux/types.h>

#include "bulkhead/steering.h"

/* Index of the map `shaped`: slot * 2 + direction. */
#define BH_EGRESS 0
#define BH_INGRESS 1
#define BH_SHAPED (BH_SLOTS * 2)
#define BH_FLOWS 65536

/* The classes below a container's ceiling, as the agent makes them: major 1, these minors. */
#define BH_HANDLE 0x10000
#define BH_CLASS_SPARSE 2 /* flows that stay below their share: served first */
#define BH_CLASS_TCP 3
#define BH_CLASS_OTHER 4
#define BH_CLASS_UNCUT 5 /* TCP of a larger MTU: between containers of one host */

/*
 * One direction of one container. The agent writes the upper half, the programs the lower one; they run under the lock of the
 * container's queueing discipline, so nothing here needs to be atomic.
 */
struct bh_shaped {
	__u64 rate; /* bytes a second; 0: no ceiling */
	__u64 mark_ns; /* mark (ECN) what would wait longer */
	__u64 other_ns; /* drop datagrams that would wait longer for other datagrams */
	__u64 largest; /* bytes of a packet that the class of TCP takes, or can cut into */
	__u64 police_burst_ns; /* see bh_police */
	__u64 empty_at; /* when all that was let in will have left at the ceiling, bpf_ktime_get_ns */
	__u64 other_empty_at; /* the same of the datagrams alone */
	__u64 police_at;
	__u64 delay_ns; /* what bulk packets wait, average of the last ones */
	__u64 bytes;
	__u64 limited_bytes; /* of packets that had to wait */
	__u64 marked_packets;
	__u64 dropped_packets;
};

/* One flow, or several whose hashes are the same. */
struct bh_flow {
	__u64 share_at; /* when it will be within its share again */
	__u64 uncut_until; /* until then its packets go where those of a larger MTU go, for the same reason */
	__u64 bulk_until; /* until then its packets may lie in a bulk class: another class would reorder them */
};

_Static_assert(sizeof(struct bh_shaped) == 104, "bh_shaped");
_Static_assert(sizeof(struct bh_flow) == 24, "bh_flow");

#endif
