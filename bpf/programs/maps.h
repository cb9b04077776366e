/* The pinned maps of steering. Sizes and values: bulkhead/steering.h. */
#ifndef BULKHEAD_MAPS_H
#define BULKHEAD_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/steering.h"

/* Port to slot; 0: the host's. */
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
	__type(value, struct bh_slot);
	__uint(max_entries, BH_SLOTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} slots SEC(".maps");

/* Host end of a veth to slot, for packets whose ports don't tell. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, BH_SLOTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} by_ifindex SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct bh_counters);
	__uint(max_entries, BH_SLOTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct bh_host);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} host SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct bh_address_key);
	__type(value, struct bh_address);
	__uint(max_entries, BH_ADDRESSES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct bh_fragment_key);
	__type(value, struct bh_fragment);
	__uint(max_entries, BH_FRAGMENTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct bh_echo_key);
	__type(value, struct bh_echo);
	__uint(max_entries, BH_ECHOES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} echoes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, BH_STAGES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} stages SEC(".maps");

static __always_inline __u32 owner_of(__u16 port)
{
	__u32 key = port;
	const __u32 *slot = bpf_map_lookup_elem(&ports, &key);

	return slot ? *slot : 0;
}

static __always_inline const struct bh_slot *slot_of(__u32 number)
{
	return bpf_map_lookup_elem(&slots, &number);
}

static __always_inline void count_drop(__u32 slot, enum bh_drop reason)
{
	struct bh_counters *mine = bpf_map_lookup_elem(&counters, &slot);

	if (mine && reason < BH_DROPS)
		mine->drops[reason]++;
}

static __always_inline __u32 packets_in(const struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

static __always_inline void count_rx(const struct __sk_buff *skb, __u32 slot)
{
	struct bh_counters *mine = bpf_map_lookup_elem(&counters, &slot);

	if (mine) {
		mine->rx_packets += packets_in(skb);
		mine->rx_bytes += skb->len;
	}
}

static __always_inline void count_tx(const struct __sk_buff *skb, __u32 slot)
{
	struct bh_counters *mine = bpf_map_lookup_elem(&counters, &slot);

	if (mine) {
		mine->tx_packets += packets_in(skb);
		mine->tx_bytes += skb->len;
	}
}

#endif
