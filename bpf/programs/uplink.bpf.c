/*
 * Sorts the packets of containers in the host's network namespace into the classes of an uplink that the agent shares out
 * (an HTB): by the control group of their socket. Those of mapped containers have their class already, in skb->priority
 * (steering.bpf.c), and never get here.
 *
 * Attached as a filter of the HTB itself: it goes with it.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/uplink.h"

/* A container's group, by the kernel's number for it, to the minor number of its class. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, __u32);
	__uint(max_entries, BH_GROUPS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} groups SEC(".maps");

static __always_inline int is_of(struct __sk_buff *skb, __u64 group)
{
	const __u32 *minor = bpf_map_lookup_elem(&groups, &group);

	if (!minor)
		return 0;
	/* The major number is the filter's (TCA_BPF_CLASSID). */
	skb->tc_classid = *minor;
	return 1;
}

SEC("tc")
int sort_uplink(struct __sk_buff *skb)
{
	__u64 group = bpf_skb_cgroup_id(skb);
	int level;

	/* With no minor number a packet would go past all classes (htb_classify: X:0 is the direct queue). */
	skb->tc_classid = BH_HOST_MINOR;
	/* No socket, or one of a connection that is over: the host's. */
	if (!group || is_of(skb, group))
		return TC_ACT_OK;
	/* A container may have groups of its own below the one that it was given. */
#pragma unroll
	for (level = 1; level <= BH_LEVELS; level++) {
		__u64 above = bpf_skb_ancestor_cgroup_id(skb, level);

		if (!above || above == group || is_of(skb, above))
			break;
	}
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Apache-2.0";
