/*
 * Where ceilings are applied. steering.bpf.c asks here for each packet of a slot that has the flag BH_SLOT_EGRESS_RATE or
 * BH_SLOT_INGRESS_RATE; a slot without it never gets here.
 */
#ifndef BULKHEAD_BANDWIDTH_PROGRAMS_H
#define BULKHEAD_BANDWIDTH_PROGRAMS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/steering.h"

#define BH_GO 0
#define BH_STOP 1

/* A packet of the container on its way out, before it is sent to the uplink, the host or another container. */
static __always_inline int bh_bandwidth_egress(struct __sk_buff *skb, __u32 slot, const struct bh_slot *state)
{
	(void)skb;
	(void)slot;
	(void)state;
	return BH_GO;
}

/* A packet on its way into the container, before it is delivered. */
static __always_inline int bh_bandwidth_ingress(struct __sk_buff *skb, __u32 slot, const struct bh_slot *state)
{
	(void)skb;
	(void)slot;
	(void)state;
	return BH_GO;
}

#endif
