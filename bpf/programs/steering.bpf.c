/*
 * Which container a packet belongs to, by its ports: containers have the host's address.
 *
 *   uplink         from the wire: a destination port (of an error: its inner source port) that a slot owns goes to it
 *   veth           out of a container: only with ports, address and MAC of its own; to the wire, the host, another slot
 *   host_lo        from the host to its own address: ports of containers go to them
 *   container_lo   from a container to its own address, which is the host's: what is not for its own ports goes out
 *
 * Attached are the *_entry programs, which only jump through the map `stages`: one update there replaces a program for
 * all containers at once. "Next" is TC_ACT_UNSPEC, so that other programs at the same hook run as well.
 */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/steering.h"
#include "bandwidth.h"
#include "maps.h"
#include "packet.h"

#define NEXT TC_ACT_UNSPEC

/* In every network namespace. */
#define LO_IFINDEX 1

enum bh_locality {
	BH_ELSEWHERE = 0,
	BH_HOST_ONLY, /* an address of the host that containers don't have */
	BH_SHARED, /* an uplink's, and so of all containers */
};

static __always_inline enum bh_locality locality(const struct bh_packet *p, const __u32 *address, __u32 *uplink)
{
	__u32 zero = 0;
	const struct bh_host *h = bpf_map_lookup_elem(&host, &zero);
	const struct bh_address *found;
	struct bh_address_key key;

	if (!h)
		return BH_ELSEWHERE;
	if (p->v4) {
		if (h->v4 && address[3] == h->v4) {
			*uplink = h->v4_uplink;
			return BH_SHARED;
		}
		if (!(h->more & BH_MORE_V4))
			return BH_ELSEWHERE;
	} else {
		if (h->v6_uplink && same_address(address, h->v6)) {
			*uplink = h->v6_uplink;
			return BH_SHARED;
		}
		if (!(h->more & BH_MORE_V6))
			return BH_ELSEWHERE;
	}
	__builtin_memcpy(key.address, address, sizeof(key.address));
	found = bpf_map_lookup_elem(&addresses, &key);
	if (!found)
		return BH_ELSEWHERE;
	*uplink = found->uplink;
	return found->uplink ? BH_SHARED : BH_HOST_ONLY;
}

/* To nobody: this host's loopback, unspecified. Or to many. */
static __always_inline int unfit_destination(const struct bh_packet *p)
{
	if (p->v4) {
		__u32 to = bpf_ntohl(p->destination[3]);

		if (to >> 28 == 0xe || to == 0xffffffff)
			return BH_DROP_MULTICAST;
		return to >> 24 == 127 || to >> 24 == 0 ? BH_DROP_DESTINATION : BH_PARSED;
	}
	if ((p->destination[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return BH_DROP_MULTICAST;
	if (!p->destination[0] && !p->destination[1])
		return BH_DROP_DESTINATION; /* ::, ::1, mapped and compatible addresses */
	return BH_PARSED;
}

static __always_inline void fragment_key(struct bh_fragment_key *key, const struct bh_packet *p, __u32 ifindex)
{
	__builtin_memcpy(key->source, p->source, 16);
	__builtin_memcpy(key->destination, p->destination, 16);
	key->id = p->id;
	key->ifindex = ifindex;
	key->protocol = p->protocol;
}

static __always_inline void remember(const struct bh_packet *p, __u32 ifindex, __u32 slot, __u32 target)
{
	struct bh_fragment_key key;
	struct bh_fragment value = { .slot = slot, .target = target };

	if (p->fragment != BH_FIRST)
		return;
	fragment_key(&key, p, ifindex);
	bpf_map_update_elem(&fragments, &key, &value, BPF_ANY);
}

static __always_inline const struct bh_fragment *remembered(const struct bh_packet *p, __u32 ifindex)
{
	struct bh_fragment_key key;

	fragment_key(&key, p, ifindex);
	return bpf_map_lookup_elem(&fragments, &key);
}

static __always_inline __u32 echo_owner(const __u32 *peer, __u16 id)
{
	struct bh_echo_key key = { .id = id };
	const struct bh_echo *found;

	__builtin_memcpy(key.peer, peer, 16);
	found = bpf_map_lookup_elem(&echoes, &key);
	return found ? found->slot : 0;
}

/* How long the id of an echo request belongs to the container that has used it. */
#define ECHO_NS (30ULL * 1000 * 1000 * 1000)

static __always_inline int take_echo(const __u32 *peer, __u16 id, __u32 slot)
{
	struct bh_echo_key key = { .id = id };
	struct bh_echo value = { .at = bpf_ktime_get_ns(), .slot = slot };
	const struct bh_echo *found;

	__builtin_memcpy(key.peer, peer, 16);
	found = bpf_map_lookup_elem(&echoes, &key);
	if (found && found->slot != slot && value.at - found->at < ECHO_NS)
		return 0;
	bpf_map_update_elem(&echoes, &key, &value, BPF_ANY);
	return 1;
}

/* Whose the packet is that an ICMP error from elsewhere is about: ours have their source port in it. */
static __always_inline __u32 error_owner(struct __sk_buff *skb, const struct bh_packet *p)
{
	struct bh_packet inner = {};
	struct bh_icmp icmp;

	if (parse_inner(skb, p, &inner) != BH_PARSED || inner.fragment == BH_LATER ||
	    !same_address(inner.source, p->destination))
		return 0;
	if (has_ports(inner.protocol))
		return owner_of(inner.source_port);
	if (is_icmp(&inner) && !bpf_skb_load_bytes(skb, inner.l4, &icmp, sizeof(icmp)) &&
	    icmp_kind(inner.v4, icmp.type) == BH_ICMP_ECHO)
		return echo_owner(inner.destination, icmp.id);
	return 0;
}

/*
 * Whose a packet to the host's address is; 0: the host's. `target` becomes BH_TO_BOTH for what the host may be waiting
 * for as well: an echo reply whose id two have used.
 */
static __always_inline __u32 receiver(struct __sk_buff *skb, const struct bh_packet *p, __u32 *target)
{
	const struct bh_fragment *first;
	struct bh_icmp icmp;
	__u32 slot = 0;

	if (p->fragment == BH_LATER) {
		first = remembered(p, skb->ifindex);
		if (!first)
			return 0;
		*target = first->target;
		return first->slot;
	}
	if (has_ports(p->protocol)) {
		slot = owner_of(p->destination_port);
	} else if (is_icmp(p)) {
		if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)))
			return 0;
		switch (icmp_kind(p->v4, icmp.type)) {
		case BH_ICMP_ERROR:
			slot = error_owner(skb, p);
			break;
		case BH_ICMP_ECHO_REPLY:
			slot = echo_owner(p->source, icmp.id);
			*target = BH_TO_BOTH;
			break;
		default:
			return 0;
		}
	}
	remember(p, skb->ifindex, slot, *target);
	return slot;
}

/* Into the container. */
static __always_inline int deliver(struct __sk_buff *skb, __u32 slot)
{
	const struct bh_slot *state = slot_of(slot);

	if (!state || !state->ifindex) {
		count_drop(0, BH_DROP_INTERNAL);
		return TC_ACT_SHOT;
	}
	if ((state->flags & BH_SLOT_INGRESS_RATE) && bh_bandwidth_ingress(skb, slot, state) != BH_GO) {
		count_drop(slot, BH_DROP_INGRESS_RATE);
		return TC_ACT_SHOT;
	}
	count_rx(skb, slot);
	if (!(state->flags & BH_SLOT_INGRESS_QUEUE))
		return bpf_redirect_peer(state->ifindex, 0);
	/* The peer looks at the destination again. From loopback, or another uplink, it isn't the container's. */
	if (bpf_skb_store_bytes(skb, 0, state->mac, sizeof(state->mac), 0)) {
		count_drop(slot, BH_DROP_INTERNAL);
		return TC_ACT_SHOT;
	}
	return bpf_redirect(state->ifindex, 0);
}

static __always_inline int deliver_inbound(struct __sk_buff *skb, __u32 slot, __u32 target)
{
	const struct bh_slot *state;

	if (target != BH_TO_BOTH)
		return deliver(skb, slot);
	state = slot_of(slot);
	if (state && state->ifindex && !bpf_skb_store_bytes(skb, 0, state->mac, sizeof(state->mac), 0)) {
		count_rx(skb, slot);
		bpf_clone_redirect(skb, state->ifindex, 0);
	}
	return NEXT;
}

SEC("tc")
int uplink(struct __sk_buff *skb)
{
	struct bh_packet p = {};
	__u32 ignored, target = 0, slot;

	/* A tagged frame is for a VLAN interface above this one, which has an entry of its own if it is an uplink. */
	if (skb->vlan_present || skb->pkt_type != PACKET_HOST || parse(skb, &p) != BH_PARSED)
		return NEXT;
	if (locality(&p, p.destination, &ignored) != BH_SHARED)
		return NEXT;
	/* From outside with the host's own address: the host's stack drops it, a container's would not. */
	if (locality(&p, p.source, &ignored) != BH_ELSEWHERE)
		return NEXT;
	slot = receiver(skb, &p, &target);
	return slot ? deliver_inbound(skb, slot, target) : NEXT;
}

SEC("tc")
int host_lo(struct __sk_buff *skb)
{
	struct bh_packet p = {};
	__u32 ignored, target = 0, slot;

	if (parse(skb, &p) != BH_PARSED || locality(&p, p.destination, &ignored) != BH_SHARED)
		return NEXT;
	slot = receiver(skb, &p, &target);
	return slot ? deliver_inbound(skb, slot, target) : NEXT;
}

static __always_inline int refuse(struct __sk_buff *skb, enum bh_drop reason)
{
	__u32 ifindex = skb->ifindex;
	const __u32 *slot = bpf_map_lookup_elem(&by_ifindex, &ifindex);

	count_drop(slot ? *slot : 0, reason);
	return TC_ACT_SHOT;
}

/* Whose a packet to `destination` is, as its sender in `slot` sees it. */
static __always_inline __u32 target_of(const struct bh_packet *p, const __u32 *destination, __u16 port, int *reason,
				       __u32 slot)
{
	__u32 ignored, owner;

	switch (locality(p, destination, &ignored)) {
	case BH_SHARED:
		owner = port ? owner_of(port) : 0;
		if (owner == slot)
			*reason = BH_DROP_DESTINATION;
		return owner ? owner : BH_TO_HOST;
	case BH_HOST_ONLY:
		return BH_TO_HOST;
	default:
		return BH_TO_UPLINK;
	}
}

/* ICMP out of a container: echo requests, and errors about packets that it has received. */
static __always_inline __u32 icmp_target(struct __sk_buff *skb, const struct bh_packet *p, __u32 slot, int *reason)
{
	struct bh_packet inner = {};
	struct bh_icmp icmp;

	if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp))) {
		*reason = BH_DROP_MALFORMED;
		return 0;
	}
	switch (icmp_kind(p->v4, icmp.type)) {
	case BH_ICMP_ECHO:
		if (!take_echo(p->destination, icmp.id, slot))
			*reason = BH_DROP_ECHO;
		return target_of(p, p->destination, 0, reason, slot);
	case BH_ICMP_ERROR:
		if (parse_inner(skb, p, &inner) != BH_PARSED || inner.fragment == BH_LATER ||
		    !has_ports(inner.protocol) || owner_of(inner.destination_port) != slot ||
		    !same_address(inner.destination, p->source) || !same_address(inner.source, p->destination)) {
			*reason = BH_DROP_ICMP;
			return 0;
		}
		return target_of(p, p->destination, inner.source_port, reason, slot);
	default:
		*reason = BH_DROP_ICMP;
		return 0;
	}
}

static __always_inline int send_on(struct __sk_buff *skb, __u32 slot, const struct bh_slot *state, __u32 target,
				   __u32 uplink_ifindex)
{
	if ((state->flags & BH_SLOT_EGRESS_RATE) && bh_bandwidth_egress(skb, slot, state) != BH_GO) {
		count_drop(slot, BH_DROP_EGRESS_RATE);
		return TC_ACT_SHOT;
	}
	count_tx(skb, slot);
	if (target == BH_TO_UPLINK) {
		/* The uplink's discipline takes it for the class (htb_classify, net/sched/sch_htb.c). */
		if (state->class_major)
			skb->priority = ((__u32)state->class_major << 16) | slot;
		return bpf_redirect_neigh(uplink_ifindex, NULL, 0, 0);
	}
	/*
	 * Through loopback, with the route attached, as the host's own packets go: a packet that came in from the veth with
	 * the host's address would be a martian unless accept_local and rp_filter allowed it.
	 */
	if (target == BH_TO_HOST)
		return bpf_redirect_neigh(LO_IFINDEX, NULL, 0, 0);
	return deliver(skb, target);
}

/* memcmp() would be a call. */
static __always_inline int same_mac(const __u8 *one, const __u8 *other)
{
	return one[5] == other[5] && one[4] == other[4] && one[3] == other[3] && one[2] == other[2] &&
	       one[1] == other[1] && one[0] == other[0];
}

SEC("tc")
int veth(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, slot, target, uplink_ifindex = 0;
	const struct bh_fragment *first;
	const struct bh_slot *state;
	struct bh_packet p = {};
	const __u32 *found;
	__u8 mac[6];
	int reason;

	if (skb->vlan_present)
		return refuse(skb, BH_DROP_NOT_IP);
	reason = parse(skb, &p);
	if (reason != BH_PARSED)
		return refuse(skb, reason);
	if (p.source_port) {
		slot = owner_of(p.source_port);
	} else {
		found = bpf_map_lookup_elem(&by_ifindex, &ifindex);
		slot = found ? *found : 0;
	}
	state = slot_of(slot);
	if (!slot || !state || state->ifindex != ifindex || (has_ports(p.protocol) && !p.source_port &&
							     p.fragment != BH_LATER))
		return refuse(skb, BH_DROP_SOURCE_PORT);
	if (bpf_skb_load_bytes(skb, 6, mac, sizeof(mac)) || !same_mac(mac, state->mac))
		return refuse(skb, BH_DROP_SOURCE_MAC);
	if (locality(&p, p.source, &uplink_ifindex) != BH_SHARED)
		return refuse(skb, BH_DROP_SOURCE_ADDRESS);
	if (p.routed)
		return refuse(skb, BH_DROP_PROTOCOL);
	reason = unfit_destination(&p);
	if (reason != BH_PARSED)
		return refuse(skb, reason);

	if (p.fragment == BH_LATER) {
		first = remembered(&p, ifindex);
		if (!first || first->slot != slot)
			return refuse(skb, BH_DROP_FRAGMENT);
		target = first->target;
	} else if (has_ports(p.protocol)) {
		target = target_of(&p, p.destination, p.destination_port, &reason, slot);
	} else if (is_icmp(&p)) {
		target = icmp_target(skb, &p, slot, &reason);
	} else {
		return refuse(skb, BH_DROP_PROTOCOL);
	}
	if (reason != BH_PARSED)
		return refuse(skb, reason);
	remember(&p, ifindex, slot, target);
	return send_on(skb, slot, state, target, uplink_ifindex);
}

/* From the container's loopback to its eth0, as if it had been routed there. */
static __always_inline int hand_out(struct __sk_buff *skb, __u32 slot)
{
	const struct bh_slot *state = slot_of(slot);
	__u8 addresses_of_frame[12];

	if (!state || !state->ifindex)
		return TC_ACT_SHOT;
	__builtin_memcpy(addresses_of_frame, state->mac, 6);
	__builtin_memcpy(addresses_of_frame + 6, state->mac, 6);
	if (bpf_skb_store_bytes(skb, 0, addresses_of_frame, sizeof(addresses_of_frame), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(state->peer_ifindex, 0);
}

/* Fragments on a container's loopback are remembered apart from those of the host's. */
#define CONTAINER_LO 0x80000001U

SEC("tc")
int container_lo(struct __sk_buff *skb)
{
	__u32 ignored, mine = 0, theirs = 0;
	const struct bh_fragment *first;
	struct bh_packet inner = {};
	struct bh_packet p = {};
	struct bh_icmp icmp;

	if (parse(skb, &p) != BH_PARSED || locality(&p, p.destination, &ignored) != BH_SHARED)
		return NEXT;
	if (p.fragment == BH_LATER) {
		first = remembered(&p, CONTAINER_LO);
		return first && first->target ? hand_out(skb, first->slot) : NEXT;
	}
	if (has_ports(p.protocol)) {
		mine = owner_of(p.source_port);
		theirs = owner_of(p.destination_port);
		if (!mine) {
			count_drop(0, BH_DROP_SOURCE_PORT);
			return TC_ACT_SHOT;
		}
	} else if (is_icmp(&p)) {
		if (bpf_skb_load_bytes(skb, p.l4, &icmp, sizeof(icmp)) ||
		    icmp_kind(p.v4, icmp.type) != BH_ICMP_ERROR || parse_inner(skb, &p, &inner) != BH_PARSED ||
		    inner.fragment == BH_LATER || !has_ports(inner.protocol))
			return NEXT;
		mine = owner_of(inner.destination_port);
		theirs = owner_of(inner.source_port);
	}
	if (!mine || mine == theirs)
		return NEXT;
	remember(&p, CONTAINER_LO, mine, 1);
	return hand_out(skb, mine);
}

SEC("tc")
int uplink_entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &stages, BH_STAGE_UPLINK);
	return NEXT;
}

SEC("tc")
int veth_entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &stages, BH_STAGE_VETH);
	return TC_ACT_SHOT;
}

SEC("tc")
int host_lo_entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &stages, BH_STAGE_HOST_LO);
	return NEXT;
}

SEC("tc")
int container_lo_entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &stages, BH_STAGE_CONTAINER_LO);
	return NEXT;
}

char LICENSE[] SEC("license") = "Apache-2.0";
