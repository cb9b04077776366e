/*
 * What the port policy and the agent both know. The Rust side is bpf/src/ports.rs; sizes are checked on both sides.
 * Whoever changes a structure changes the names of the maps too: an agent reads those of an earlier one by name and size.
 */
#ifndef BULKHEAD_PORTS_H
#define BULKHEAD_PORTS_H

#include <linux/types.h>

/* A cgroup's storage may have a page: room for more would not be searched in time either. */
#define BH_PORT_RANGES 128

struct bh_port_range {
	__u16 first;
	__u16 last;
};

/* One container's policy, in the storage of its group. All zero: nothing is allowed yet. */
struct bh_port_policy {
	__u32 count; /* of ranges, in order */
	__u16 ephemeral_first; /* 0: those of the host */
	__u16 ephemeral_last;
	__u32 next; /* where the search for an ephemeral port goes on */
	__u32 last_refused; /* port */
	__u64 refused; /* binds */
	__u64 unreachable; /* connections to a port that it listens at without having it */
	__u64 exhausted; /* searches that found no free ephemeral port */
	struct bh_port_range ranges[BH_PORT_RANGES];
};

struct bh_traffic {
	__u64 rx_packets; /* into the container */
	__u64 rx_bytes;
	__u64 tx_packets;
	__u64 tx_bytes;
};

_Static_assert(sizeof(struct bh_port_policy) == 552, "bh_port_policy");
_Static_assert(sizeof(struct bh_traffic) == 32, "bh_traffic");

#endif
