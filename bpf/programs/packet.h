/* From bytes to addresses, protocol and ports: IPv4 with options, IPv6 with extension headers, fragments. */
#ifndef BULKHEAD_PACKET_H
#define BULKHEAD_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/steering.h"

#define BH_WHOLE 0
#define BH_FIRST 1
#define BH_LATER 2

struct bh_packet {
	__u32 source[4]; /* network order; IPv4 as ::ffff:a.b.c.d */
	__u32 destination[4];
	__u32 id; /* of the fragment */
	__u32 l4; /* where the transport header begins */
	__u16 source_port; /* host order; 0 where there are none */
	__u16 destination_port;
	__u8 v4;
	__u8 protocol;
	__u8 fragment;
	__u8 routed; /* has an IPv6 routing header: the destination isn't the last one */
};

/* What parse() says beside a reason of enum bh_drop. */
#define BH_PARSED (-1)

/* Extension headers that one packet may have: more than any sender has a use for. */
#define EXTENSIONS_MAX 6

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
	       protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP;
}

static __always_inline int parse_v4(struct __sk_buff *skb, __u32 at, struct bh_packet *p)
{
	struct iphdr ip;
	__u16 offset;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return BH_DROP_MALFORMED;
	p->source[2] = p->destination[2] = bpf_htonl(0xffff);
	p->source[3] = ip.saddr;
	p->destination[3] = ip.daddr;
	p->v4 = 1;
	p->protocol = ip.protocol;
	p->l4 = at + ip.ihl * 4;
	offset = bpf_ntohs(ip.frag_off);
	p->id = ip.id;
	if (offset & 0x1fff)
		p->fragment = BH_LATER;
	else if (offset & 0x2000)
		p->fragment = BH_FIRST;
	return BH_PARSED;
}

static __always_inline int parse_v6(struct __sk_buff *skb, __u32 at, struct bh_packet *p)
{
	struct ipv6hdr ip;
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return BH_DROP_MALFORMED;
	__builtin_memcpy(p->source, &ip.saddr, 16);
	__builtin_memcpy(p->destination, &ip.daddr, 16);
	p->l4 = at + sizeof(ip);
	next = ip.nexthdr;
#pragma unroll
	for (i = 0; i < EXTENSIONS_MAX; i++) {
		__u8 header[8];

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			break;
		if (bpf_skb_load_bytes(skb, p->l4, header, sizeof(header)))
			return BH_DROP_MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			__u16 offset = (__u16)header[2] << 8 | header[3];

			__builtin_memcpy(&p->id, header + 4, 4);
			p->l4 += 8;
			next = header[0];
			if (offset & 0xfff8) {
				p->fragment = BH_LATER;
				break;
			}
			/* Offset 0 and no more to come is a whole packet (RFC 6946). */
			if (offset & 1)
				p->fragment = BH_FIRST;
			continue;
		}
		if (next == IPPROTO_ROUTING)
			p->routed = 1;
		p->l4 += ((__u32)header[1] + 1) * 8;
		next = header[0];
	}
	p->protocol = next;
	return BH_PARSED;
}

static __always_inline int parse_ports(struct __sk_buff *skb, struct bh_packet *p)
{
	__u16 ports[2];

	if (p->fragment == BH_LATER || !has_ports(p->protocol))
		return BH_PARSED;
	/* RFC 7112: the first fragment has all headers; one that has not is an attempt to hide the ports. */
	if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
		return BH_DROP_MALFORMED;
	p->source_port = bpf_ntohs(ports[0]);
	p->destination_port = bpf_ntohs(ports[1]);
	return BH_PARSED;
}

/* The packet of a frame. `p` is all zeros before. */
static __always_inline int parse(struct __sk_buff *skb, struct bh_packet *p)
{
	int result;

	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		result = parse_v4(skb, ETH_HLEN, p);
		break;
	case bpf_htons(ETH_P_IPV6):
		result = parse_v6(skb, ETH_HLEN, p);
		break;
	case bpf_htons(ETH_P_ARP):
	case bpf_htons(ETH_P_RARP):
		return BH_DROP_ARP;
	default:
		return BH_DROP_NOT_IP;
	}
	return result == BH_PARSED ? parse_ports(skb, p) : result;
}

enum bh_icmp_kind {
	BH_ICMP_OTHER = 0,
	BH_ICMP_ERROR,
	BH_ICMP_ECHO,
	BH_ICMP_ECHO_REPLY,
};

static __always_inline int is_icmp(const struct bh_packet *p)
{
	return p->v4 ? p->protocol == IPPROTO_ICMP : p->protocol == IPPROTO_ICMPV6;
}

static __always_inline enum bh_icmp_kind icmp_kind(__u8 v4, __u8 type)
{
	if (v4) {
		switch (type) {
		case 0:
			return BH_ICMP_ECHO_REPLY;
		case 8:
			return BH_ICMP_ECHO;
		case 3: /* unreachable, fragmentation needed */
		case 4: /* source quench */
		case 11: /* time exceeded */
		case 12: /* parameter problem */
			return BH_ICMP_ERROR;
		default:
			return BH_ICMP_OTHER;
		}
	}
	if (type >= 1 && type <= 4)
		return BH_ICMP_ERROR;
	if (type == 128)
		return BH_ICMP_ECHO;
	return type == 129 ? BH_ICMP_ECHO_REPLY : BH_ICMP_OTHER;
}

struct bh_icmp {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u16 id;
	__u16 sequence;
};

/* The packet that an ICMP error is about; only its first 8 bytes after the IP header are sure to be there. */
static __always_inline int parse_inner(struct __sk_buff *skb, const struct bh_packet *outer, struct bh_packet *inner)
{
	__u32 at = outer->l4 + sizeof(struct bh_icmp);
	int result = outer->v4 ? parse_v4(skb, at, inner) : parse_v6(skb, at, inner);

	return result == BH_PARSED ? parse_ports(skb, inner) : result;
}

static __always_inline int same_address(const __u32 *one, const __u32 *other)
{
	return one[3] == other[3] && one[2] == other[2] && one[1] == other[1] && one[0] == other[0];
}

#endif
