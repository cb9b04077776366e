/*
 * Ports and traffic of a container in the host's network namespace, by its control group.
 *
 *   bind4, bind6         a port that is not the container's: EACCES; port 0: one of its ephemeral ports
 *   connect4, connect6   an unbound socket gets one of its ephemeral ports
 *   guard_in             who listens without having bound (the kernel chooses a port and asks nobody) is not reached
 *   count_in, count_out  bytes and packets
 *
 * Policy and counters are in the storage of the group that the programs are attached to, whichever group below it the
 * caller is in, so they live exactly as long as the group does: through any restart of the agent.
 *
 * An unbound sendto() is bound by the kernel before any hook (inet_send_prepare, net/ipv4/af_inet.c), to a port of the
 * host's ip_local_port_range, which no container's port is in.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/ports.h"

#define ALLOW 1
#define REFUSE 0

#define EACCES 13
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOL_SOCKET 1
#define SO_REUSEPORT 15

/* Ports that are tried before the caller is told that there is none. */
#define TRIES 32

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct bh_port_policy);
} bh_policy_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct bh_traffic);
} bh_traffic_1 SEC(".maps");

/* What clang is to know nothing about. */
#define HIDDEN(value) asm volatile("" : "+r"(value))

/* All ones where a is less than b, else none; both below 2^63. */
static __always_inline __u64 less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	/* Or clang makes the branch of it that is to be avoided. */
	HIDDEN(difference);
	return (__u64)((__s64)difference >> 63);
}

/* Clang sees that this changes nothing and leaves it out; the verifier of 6.1 does not. */
static __always_inline __u64 within(__u64 at)
{
	HIDDEN(at);
	return at & (BH_PORT_RANGES - 1);
}

/*
 * Ranges are in order: the last one that begins at or before the port is looked for by halves. Without branches, each of
 * which would double what the verifier has to walk through: 30 ms at each start of the agent.
 */
static __always_inline int owns(const struct bh_port_policy *policy, __u16 port)
{
	__u64 at = 0;
	__u32 step;

	if (policy->ephemeral_first && port >= policy->ephemeral_first && port <= policy->ephemeral_last)
		return 1;
	if (!policy->count)
		return 0;
#pragma clang loop unroll(full)
	for (step = BH_PORT_RANGES / 2; step; step /= 2) {
		__u64 next = within(at + step);

		at += step & less(next, policy->count) & ~less(port, policy->ranges[next].first);
	}
	at = within(at);
	return port >= policy->ranges[at].first && port <= policy->ranges[at].last;
}

/* The next ephemeral port, each of them once before one comes again. */
static __always_inline __u16 candidate(struct bh_port_policy *policy)
{
	__u32 count = (__u32)policy->ephemeral_last - policy->ephemeral_first + 1;
	__u32 turn = __sync_fetch_and_add(&policy->next, 1);

	return policy->ephemeral_first + turn % count;
}

/*
 * Somebody listens there (TCP) or is bound there (UDP). A TCP socket that is bound and does not listen is not seen:
 * going through the range in turn is what keeps away from those.
 */
static __always_inline int in_use(struct bpf_sock_addr *ctx, const __u32 address[4], __u32 type, __u16 port, int v6)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *found;
	__u32 size;

	if (v6) {
		__builtin_memcpy(tuple.ipv6.daddr, address, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.dport = bpf_htons(port);
		size = sizeof(tuple.ipv6);
	} else {
		tuple.ipv4.daddr = address[0];
		tuple.ipv4.dport = bpf_htons(port);
		size = sizeof(tuple.ipv4);
	}
	if (type == SOCK_STREAM)
		found = bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	bpf_sk_release(found);
	return 1;
}

/* The search for a free ephemeral port, one try a call: by bpf_loop() the verifier walks through it once. */
struct search {
	struct bpf_sock_addr *ctx;
	struct bh_port_policy *policy;
	__u32 address[4];
	__u32 type;
	__u16 port;
	__u16 found;
};

static long try_bind4(__u32 turn __attribute__((unused)), struct search *search)
{
	search->port = candidate(search->policy);
	search->found = !in_use(search->ctx, search->address, search->type, search->port, 0);
	return search->found;
}

static long try_bind6(__u32 turn __attribute__((unused)), struct search *search)
{
	search->port = candidate(search->policy);
	search->found = !in_use(search->ctx, search->address, search->type, search->port, 1);
	return search->found;
}

static __always_inline int bind(struct bpf_sock_addr *ctx, int v6)
{
	struct bh_port_policy *policy = bpf_get_local_storage(&bh_policy_1, 0);
	__u16 port = bpf_ntohs(ctx->user_port);
	struct search search = { .ctx = ctx, .policy = policy, .type = ctx->type };

	/* Type and address once and here: of a loop clang makes a pointer into the context, which kernels before 6.3 refuse. */
	if (v6) {
		search.address[0] = ctx->user_ip6[0];
		search.address[1] = ctx->user_ip6[1];
		search.address[2] = ctx->user_ip6[2];
		search.address[3] = ctx->user_ip6[3];
	} else {
		search.address[0] = ctx->user_ip4;
	}

	if (port) {
		if (owns(policy, port))
			return ALLOW;
		policy->last_refused = port;
		__sync_fetch_and_add(&policy->refused, 1);
		bpf_set_retval(-EACCES);
		return REFUSE;
	}
	if (!policy->ephemeral_first)
		return ALLOW;
	if (v6)
		bpf_loop(TRIES, try_bind6, &search, 0);
	else
		bpf_loop(TRIES, try_bind4, &search, 0);
	ctx->user_port = bpf_htons(search.port);
	if (search.found)
		return ALLOW;
	/* The last one: the kernel says EADDRINUSE, as it does when its own range is used up. */
	__sync_fetch_and_add(&policy->exhausted, 1);
	return ALLOW;
}

static __always_inline int bind_to(struct bpf_sock_addr *ctx, __u16 port, int v6)
{
	/* Any address: the route chooses the source, as without us. */
	if (v6) {
		struct sockaddr_in6 {
			__u16 family;
			__u16 port;
			__u32 flow;
			__u32 address[4];
			__u32 scope;
		} any = { .family = AF_INET6, .port = bpf_htons(port) };

		return bpf_bind(ctx, (struct sockaddr *)&any, sizeof(any));
	} else {
		struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = bpf_htons(port) };

		return bpf_bind(ctx, (struct sockaddr *)&any, sizeof(any));
	}
}

static long try_connect4(__u32 turn __attribute__((unused)), struct search *search)
{
	search->found = !bind_to(search->ctx, candidate(search->policy), 0);
	return search->found;
}

static long try_connect6(__u32 turn __attribute__((unused)), struct search *search)
{
	search->found = !bind_to(search->ctx, candidate(search->policy), 1);
	return search->found;
}

static __always_inline int connect(struct bpf_sock_addr *ctx, int v6)
{
	struct bh_port_policy *policy = bpf_get_local_storage(&bh_policy_1, 0);
	struct search search = { .ctx = ctx, .policy = policy };
	int one = 1;

	if (!policy->ephemeral_first || !ctx->sk || ctx->sk->src_port)
		return ALLOW;
	if (ctx->type != SOCK_STREAM && ctx->type != SOCK_DGRAM)
		return ALLOW;
	/*
	 * As the kernel does for its own range, let connections to different places share a port, those in TIME_WAIT too:
	 * a range would be used up for a minute by as many connections otherwise. Not for UDP: sockets that share a port
	 * take each other's datagrams.
	 */
	if (ctx->type == SOCK_STREAM)
		bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (v6)
		bpf_loop(TRIES, try_connect6, &search, 0);
	else
		bpf_loop(TRIES, try_connect4, &search, 0);
	if (search.found)
		return ALLOW;
	__sync_fetch_and_add(&policy->exhausted, 1);
	/* As when the range of a host is used up: EADDRNOTAVAIL, connect(2). */
	bpf_set_retval(-99);
	return REFUSE;
}

SEC("cgroup/bind4")
int bh_bind4(struct bpf_sock_addr *ctx)
{
	return bind(ctx, 0);
}

SEC("cgroup/bind6")
int bh_bind6(struct bpf_sock_addr *ctx)
{
	return bind(ctx, 1);
}

SEC("cgroup/connect4")
int bh_connect4(struct bpf_sock_addr *ctx)
{
	return connect(ctx, 0);
}

SEC("cgroup/connect6")
int bh_connect6(struct bpf_sock_addr *ctx)
{
	return connect(ctx, 1);
}

static __always_inline __u64 packets(struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

SEC("cgroup_skb/ingress")
int bh_count_in(struct __sk_buff *skb)
{
	struct bh_traffic *traffic = bpf_get_local_storage(&bh_traffic_1, 0);

	traffic->rx_packets += packets(skb);
	traffic->rx_bytes += skb->len;
	return ALLOW;
}

SEC("cgroup_skb/egress")
int bh_count_out(struct __sk_buff *skb)
{
	struct bh_traffic *traffic = bpf_get_local_storage(&bh_traffic_1, 0);

	traffic->tx_packets += packets(skb);
	traffic->tx_bytes += skb->len;
	return ALLOW;
}

#define TCP_SYN 0x02
#define TCP_ACK 0x10

/* The destination port, if this is the first segment of a connection; else 0. */
static __always_inline __u16 opened_port(struct __sk_buff *skb)
{
	__u8 head[8], flags;
	__u32 at = 40;
	__u16 port;

	if (bpf_skb_load_bytes(skb, 0, head, sizeof(head)))
		return 0;
	if (skb->protocol == bpf_htons(0x0800)) {
		__u8 protocol;

		if (bpf_skb_load_bytes(skb, 9, &protocol, 1) || protocol != IPPROTO_TCP)
			return 0;
		at = (head[0] & 15) * 4;
	} else if (head[6] != IPPROTO_TCP) {
		return 0;
	}
	if (bpf_skb_load_bytes(skb, at + 13, &flags, 1) || (flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	if (bpf_skb_load_bytes(skb, at + 2, &port, 2))
		return 0;
	return bpf_ntohs(port);
}

SEC("cgroup_skb/ingress")
int bh_guard_in(struct __sk_buff *skb)
{
	struct bh_port_policy *policy = bpf_get_local_storage(&bh_policy_1, 0);
	__u16 port = opened_port(skb);

	if (!port || owns(policy, port))
		return ALLOW;
	__sync_fetch_and_add(&policy->unreachable, 1);
	return REFUSE;
}

/* No helper here is for GPL programs only. */
char LICENSE[] SEC("license") = "Apache-2.0";
