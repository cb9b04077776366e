/*
 * The part of ceilings that steering.bpf.c does: it asks here for each packet of a slot with the flag BH_SLOT_EGRESS_RATE or
 * BH_SLOT_INGRESS_RATE; a slot without it never gets here. Rates are held by queueing disciplines (bandwidth.bpf.c).
 */
#ifndef BULKHEAD_BANDWIDTH_PROGRAMS_H
#define BULKHEAD_BANDWIDTH_PROGRAMS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/steering.h"
#include "shaped.h"

#define BH_GO 0
#define BH_STOP 1

/*
 * A packet of the container on its way out, before it is sent to the uplink, the host or another container. Its own
 * discipline has held it to the rate already; one that has removed it (CAP_NET_ADMIN) is held to it here, with losses. Half
 * a second of burst keeps this away from honest traffic: headers of offloaded segments are not even counted.
 *
 * Two processors may race for police_at; what one of them adds is lost then, to the container's advantage.
 */
static __always_inline int bh_bandwidth_egress(struct __sk_buff *skb, __u32 slot, const struct bh_slot *state)
{
	__u32 index = slot * 2 + BH_EGRESS;
	struct bh_shaped *shape = bpf_map_lookup_elem(&shaped, &index);
	__u64 now, at;

	(void)state;
	if (!shape || !shape->rate)
		return BH_GO;
	now = bpf_ktime_get_ns();
	at = shape->police_at < now ? now : shape->police_at;
	if (at - now > shape->police_burst_ns) {
		__sync_fetch_and_add(&shape->dropped_packets, 1);
		return BH_STOP;
	}
	shape->police_at = at + skb->len * 1000000000ULL / shape->rate;
	return BH_GO;
}

/* A packet on its way into the container, before it is delivered: the host end's discipline does all of it. */
static __always_inline int bh_bandwidth_ingress(struct __sk_buff *skb, __u32 slot, const struct bh_slot *state)
{
	(void)skb;
	(void)slot;
	(void)state;
	return BH_GO;
}

#endif
