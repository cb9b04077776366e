/*
 * What the ceiling of a container in the host's network namespace and the agent both know. The Rust side is
 * bpf/src/ceiling.rs; both check sizes. Whoever changes the structure changes the name of the map too: an agent reads that
 * of an earlier one by name and size.
 */
#ifndef BULKHEAD_CEILING_H
#define BULKHEAD_CEILING_H

#include <linux/types.h>

/*
 * In the storage of the container's group. The agent writes the first three; the programs, on several processors at once
 * and without a lock, the others: what two of them do to one field at the same time is lost, to the container's advantage.
 */
struct bh_ceiling {
	__u64 rate; /* bytes a second; 0: none */
	__u64 burst_ns; /* datagrams beyond their share are dropped when so much more than the rate has gone */
	__u64 tcp_burst_ns; /* and everything when so much more has */
	__u64 pace; /* bytes a second that each connection may send; 0: not yet known */
	__u64 empty_at; /* when all that has gone would have gone at the rate, bpf_ktime_get_ns */
	__u64 datagrams_at; /* the same for the share of datagrams */
	__u64 window_at; /* since then... */
	__u64 window_bytes; /* ...so much has gone */
	__u64 rtt_ns; /* of its connections, average of the last ones */
	__u64 bytes;
	__u64 limited_bytes; /* of packets that went, or would have gone, beyond the rate */
	__u64 dropped_packets;
	__u64 was_limited; /* not 0: connections have a pace that has to be lifted */
};

/* The other direction. The agent writes the first three, as above. */
struct bh_inward {
	__u64 rate;
	__u64 burst_ns; /* datagrams are dropped when so much more than the rate has come */
	__u64 tcp_burst_ns; /* and TCP when so much more has */
	__u64 empty_at;
	__u64 bytes;
	__u64 limited_bytes; /* of packets that were dropped */
	__u64 dropped_packets;
};

/* What its connections tell by the way. */
struct bh_tcp {
	__u64 retransmits; /* segments */
};

_Static_assert(sizeof(struct bh_ceiling) == 104, "bh_ceiling");
_Static_assert(sizeof(struct bh_inward) == 56, "bh_inward");

#endif
