/*
 * Sorts the packets of a container with a ceiling into the classes of its queueing discipline (HTB), and tells senders early.
 *
 * HTB holds the rate exactly, but one queue behind it would be long for everybody. Here the flows that use less than their
 * share of the ceiling go first, so that a question and its answer never wait behind a transfer; transfers are told by ECN
 * before their queue grows; datagrams, whose senders listen to nobody, have a short queue of their own. (fq_codel does
 * the like; many kernels are built without it.)
 *
 * Attached as a filter of the HTB itself: it goes with it, and runs under its lock.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/bandwidth.h"
#include "shaped.h"

#define SECOND_NS 1000000000ULL
/* A flow is within its share while it sends at most this part of the ceiling... */
#define SHARES 8
/* ...after so many bytes at once: four packets of an Ethernet. */
#define SHARE_BURST (4 * 1514ULL)
/* At high rates that burst is over in no time; a question of 64 kB shall still go first. */
#define SHARE_BURST_NS 200000ULL
/* A transfer that pauses is a transfer for so long: the queue may be longer than predicted when HTB's timer is late. */
#define STAYS_BULK_NS (50ULL * 1000 * 1000)

/*
 * Who does not know ECN is told by a drop before the queue is full, since a full queue drops whole windows; not much earlier,
 * since connections whose windows are small lose more (Mathis 1997: as the inverse square), and a connection's least timeout is
 * 200 ms.
 */
#define DROP_NS (180ULL * 1000 * 1000)
/* What is dropped is told by one segment; a large offloaded packet would be a window. */
#define DROP_SEGMENTS 4

/*
 * The queue of transfers is so long, in time or in bytes, whichever is more (tcp_bytes in shaper_plan.rs): what comes when it is
 * full is dropped behind this program, and waits for nothing.
 */
#define QUEUE_NS (400ULL * 1000 * 1000)
#define QUEUE_BYTES (256ULL << 10)

/* Steering's map, found by its pin: which slot owns a port of the host's address. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, BH_PORTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct bh_flow);
	__uint(max_entries, BH_FLOWS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows SEC(".maps");

/* Of each flow, when it was last told by a drop. Nobody misses it when the next agent's programs begin anew. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, BH_FLOWS);
} told_at SEC(".maps");

struct packet {
	__u32 protocol;
	__u32 source_port;
	__u32 destination_port;
};

/* 0: IP, and its first fragment. Reads by copy: after a redirect the headers may not lie in the linear part. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *packet)
{
	__u32 offset = ETH_HLEN;
	__be16 two[2];

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) < 0)
			return -1;
		if (ip.frag_off & bpf_htons(0x1fff))
			return -1;
		packet->protocol = ip.protocol;
		offset += ip.ihl * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) < 0)
			return -1;
		/* What has extension headers is rare and goes with the datagrams. */
		packet->protocol = ip.nexthdr;
		offset += sizeof(ip);
	} else {
		return -1;
	}
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP && packet->protocol != IPPROTO_UDPLITE &&
	    packet->protocol != IPPROTO_SCTP)
		return -1;
	if (bpf_skb_load_bytes(skb, offset, two, sizeof(two)) < 0)
		return -1;
	packet->source_port = bpf_ntohs(two[0]);
	packet->destination_port = bpf_ntohs(two[1]);
	return 0;
}

/* Nobody overtakes, but nobody waits in the transfers' queue either. */
static __always_inline int unsorted(struct __sk_buff *skb)
{
	skb->tc_classid = BH_HANDLE | BH_CLASS_OTHER;
	return TC_ACT_OK;
}

static __always_inline void account(struct bh_shaped *state, __u64 wait, __u32 length)
{
	state->limited_bytes += length;
	/* Weight 1/16, and never below zero. */
	state->delay_ns = state->delay_ns - state->delay_ns / 16 + wait / 16;
}

static __always_inline int sort(struct __sk_buff *skb, __u32 direction)
{
	struct packet packet = {};
	struct bh_shaped *state;
	struct bh_flow *flow;
	__u64 now, cost, burst, share_at, wait;
	__u32 key, *slot, length = skb->wire_len;

	if (parse(skb, &packet) < 0)
		return unsorted(skb);
	key = direction == BH_EGRESS ? packet.source_port : packet.destination_port;
	slot = bpf_map_lookup_elem(&ports, &key);
	if (!slot || *slot >= BH_SLOTS)
		return unsorted(skb);
	key = *slot * 2 + direction;
	state = bpf_map_lookup_elem(&shaped, &key);
	if (!state || !state->rate)
		return unsorted(skb);
	key = bpf_get_hash_recalc(skb) % BH_FLOWS;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return unsorted(skb);

	now = bpf_ktime_get_ns();
	cost = length * SECOND_NS / state->rate;
	if (state->empty_at < now)
		state->empty_at = now;
	wait = state->empty_at - now;
	if (wait > QUEUE_NS) {
		__u64 longest = QUEUE_BYTES * SECOND_NS / state->rate;

		if (longest < QUEUE_NS)
			longest = QUEUE_NS;
		if (wait > longest) {
			wait = longest;
			state->empty_at = now + longest;
		}
	}
	state->empty_at += cost;
	state->bytes += length;

	share_at = flow->share_at < now ? now : flow->share_at;
	share_at += cost * SHARES;
	burst = SHARE_BURST * SHARES * SECOND_NS / state->rate;
	if (burst < SHARE_BURST_NS)
		burst = SHARE_BURST_NS;
	if (share_at - now <= burst && now >= flow->bulk_until) {
		flow->share_at = share_at;
		skb->tc_classid = BH_HANDLE | BH_CLASS_SPARSE;
		return TC_ACT_OK;
	}
	/* However much it sends, it can be within its share again soon after it has stopped. */
	flow->share_at = share_at - now > 4 * burst ? now + 4 * burst : share_at;

	if (packet.protocol != IPPROTO_TCP) {
		if (state->other_empty_at < now)
			state->other_empty_at = now;
		if (state->other_empty_at - now > state->other_ns) {
			state->empty_at -= cost;
			state->dropped_packets += 1;
			state->limited_bytes += length;
			return TC_ACT_SHOT;
		}
		account(state, state->other_empty_at - now, length);
		state->other_empty_at += cost;
		flow->bulk_until = state->empty_at + STAYS_BULK_NS;
		skb->tc_classid = BH_HANDLE | BH_CLASS_OTHER;
		return TC_ACT_OK;
	}
	account(state, wait, length);
	flow->bulk_until = state->empty_at + STAYS_BULK_NS;
	if (wait > state->mark_ns && bpf_skb_ecn_set_ce(skb)) {
		state->marked_packets += 1;
	} else if (direction == BH_INGRESS && wait > DROP_NS && skb->gso_segs <= DROP_SEGMENTS) {
		__u64 *told = bpf_map_lookup_elem(&told_at, &key);

		/* Once in a round trip, which is the queue mostly. */
		if (told && now - *told > wait) {
			*told = now;
			state->empty_at -= cost;
			state->dropped_packets += 1;
			return TC_ACT_SHOT;
		}
	}
	/* A packet that can't be cut small enough would be dropped there (sch_tbf.c, tbf_enqueue). */
	if ((skb->gso_segs > 1 ? length / skb->gso_segs : length) > state->largest)
		flow->uncut_until = flow->bulk_until;
	skb->tc_classid = BH_HANDLE | (now < flow->uncut_until ? BH_CLASS_UNCUT : BH_CLASS_TCP);
	return TC_ACT_OK;
}

/* Filter of the HTB of eth0, in the container's namespace. */
SEC("tc")
int sort_egress(struct __sk_buff *skb)
{
	return sort(skb, BH_EGRESS);
}

/* Filter of the HTB of the veth's host end. */
SEC("tc")
int sort_ingress(struct __sk_buff *skb)
{
	return sort(skb, BH_INGRESS);
}

char LICENSE[] SEC("license") = "Apache-2.0";
