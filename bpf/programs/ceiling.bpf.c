/*
 * The egress ceiling of a container in the host's network namespace, by its control group: there is no interface of its own
 * to queue at, and the uplink's disciplines are not ours.
 *
 *   pace          each TCP connection is told at what pace to send (SO_MAX_PACING_RATE): it waits in its socket, so there is
 *                 no queue, and nothing to lose
 *   ceiling_out   counts all that leaves against the rate, from which the pace follows, and drops what goes beyond it all
 *                 the same: datagrams, and TCP that was not paced in time
 *
 * All connections of a container have the same pace, which rises while less than the ceiling is used and falls while more
 * is (as in the Rate Control Protocol, Dukkipati 2007): the busy ones share the ceiling evenly, whatever the others leave.
 *
 *   ceiling_in    what comes in has crossed the wire already: it can only be dropped, when more than a burst beyond the rate has
 *                 come. That burst is long for TCP, which on a short path forgets a loss within milliseconds and waits 200 ms
 *                 when it loses all that is under way: with 20 ms of burst it gets half of 1 Gbit/s.
 *
 * A drop of the second kind is no loss for TCP: the stack hears of it at once (NET_XMIT_DROP), slows down and sends the same
 * segment later (tcp_write_xmit, net/ipv4/tcp_output.c).
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/ceiling.h"

#define SOL_SOCKET 1
#define SO_MAX_PACING_RATE 47
/* The level of the options TCP_BPF_* of linux/bpf.h. */
#define SOL_TCP 6

/* What a program of a group's egress answers (__cgroup_bpf_run_filter_skb): bit 0 lets go, bit 1 tells of congestion. */
#define PASS 1
#define DROP_AND_TELL 2
#define PASS_AND_TELL 3

#define SECOND_NS 1000000000ULL
#define MS_NS 1000000ULL
#define ETHERNET_HEADER 14
/* The pace is computed so often, and at low rates after so many bytes: a few packets say nothing of a rate. */
#define WINDOW_NS (4 * MS_NS)
#define WINDOW_BYTES 24000
/* After a pause as long, connections begin anew. */
#define FORGET_NS SECOND_NS
/* How fast the pace follows: slower than any connection hears of it. */
#define FOLLOW_NS (50 * MS_NS)
/*
 * Gone beforehand and not counted as too much, beside what datagrams may: segments leave in offloaded packets of a
 * millisecond each, and of two segments at least.
 */
#define AHEAD_NS (5 * MS_NS)
#define AHEAD_BYTES 12000
/*
 * Gone so much too much, senders are told (what their stacks take for a full queue). Only for those that are not paced: with
 * a small congestion window and the delays of a pace, TCP would stay slower than it may be.
 */
#define TELL_NS (700 * MS_NS)
/* Of the ceiling, datagrams get this part in any case: questions and answers pass while transfers use all of it. */
#define DATAGRAM_PART 8
#define DATAGRAM_BYTES 12000
/*
 * Gone too much is made up for by sending so much less, in parts of the ceiling, since a pace that was far too low would be
 * heard of late; and so much more is sent while there is nothing to make up for.
 */
#define REPAY 64
/* Two segments, the least that TCP offloads: a connection hears of its pace as often as it sends them. */
#define LEAST_SENT 3028
#define PARTS 1024
/* No pace is lower: a connection hears of a better one only after its next segments have left, here within 100 ms. */
#define LEAST_PACE (LEAST_SENT * 10)
/*
 * On short paths TCP offloads up to 64 kB at once whatever its pace (tcp_tso_autosize, net/ipv4/tcp_output.c, since 5.18), or
 * half of its congestion window: with eight connections at 10 Mbit/s each would hear of its pace some three times a second only. So there,
 * and only there, the window has a bound: what the pace sends in two round trips and 10 ms more.
 */
#define WINDOW_LEAST 4
#define WINDOW_BOUNDED 40 /* segments: some 60 kB */
#define WINDOW_FREE 0x7fffffff

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct bh_ceiling);
} bh_ceiling_1 SEC(".maps");

/* What the packet is on the wire, all of its segments' headers included; *tcp: whether it is TCP. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, int *tcp)
{
	__u32 segments = skb->gso_segs ? skb->gso_segs : 1;
	__u32 header = 40;
	__u8 head[10], offset;

	*tcp = 0;
	if (bpf_skb_load_bytes(skb, 0, head, sizeof(head)))
		return skb->len + ETHERNET_HEADER;
	if (skb->protocol == bpf_htons(0x0800)) {
		*tcp = head[9] == IPPROTO_TCP;
		header = (head[0] & 15) * 4;
	} else {
		*tcp = head[6] == IPPROTO_TCP;
	}
	if (*tcp && !bpf_skb_load_bytes(skb, header + 12, &offset, 1))
		header += (offset >> 4) * 4;
	else
		header += 8;
	return skb->len + segments * ETHERNET_HEADER + (segments - 1) * header;
}

/* From what has gone since the last time. `wait`: by how much it was too much. */
static __always_inline void set_pace(struct bh_ceiling *state, __u64 now, __u64 wait, __u64 ahead)
{
	__u64 elapsed = now - state->window_at, rate = state->rate, pace = state->pace, follow, used, least;
	__s64 change;

	if (elapsed > FORGET_NS || !pace) {
		state->pace = rate / 4;
		state->window_at = now;
		state->window_bytes = 0;
		return;
	}
	if (elapsed < (wait > ahead ? WINDOW_NS / 4 : WINDOW_NS) ||
	    (state->window_bytes < WINDOW_BYTES && elapsed < FORGET_NS / 4))
		return;
	used = state->window_bytes * SECOND_NS / elapsed;
	state->window_at = now;
	state->window_bytes = 0;
	follow = state->rtt_ns * 2;
	if (follow < FOLLOW_NS)
		follow = FOLLOW_NS;
	if (follow < 4 * LEAST_SENT * SECOND_NS / pace)
		follow = 4 * LEAST_SENT * SECOND_NS / pace;
	if (elapsed > follow)
		elapsed = follow;
	/* In parts of the rate. Division of signed numbers came with later instruction sets. */
	if (used > rate * 16)
		used = rate * 16;
	change = used > rate ? -(__s64)((used - rate) * PARTS / rate) : (__s64)((rate - used) * PARTS / rate);
	if (wait > ahead)
		change -= REPAY;
	else if (!wait)
		change += REPAY;
	/*
	 * By a quarter at once, at most: the first ten packets of a connection are not paced (tcp_update_skb_after_send,
	 * net/ipv4/tcp_output.c), and no sign of how fast it will be.
	 */
	if (change < 0) {
		used = (__u64)-change * elapsed / follow;
		if (used > PARTS / 4)
			used = PARTS / 4;
		/* As much down as it would be up: else what comes and goes would lower it. */
		pace = pace * PARTS / (PARTS + used);
	} else {
		used = (__u64)change * elapsed / follow;
		if (used > PARTS / 4)
			used = PARTS / 4;
		pace += pace * used / PARTS + 1;
	}
	least = rate / PARTS;
	if (least < LEAST_PACE)
		least = rate / 16 < LEAST_PACE ? rate / 16 + 1 : LEAST_PACE;
	if (pace < least)
		pace = least;
	state->pace = pace > rate ? rate : pace;
}

SEC("cgroup_skb/egress")
int bh_ceiling_out(struct __sk_buff *skb)
{
	struct bh_ceiling *state = bpf_get_local_storage(&bh_ceiling_1, 0);
	__u64 now, at, wait, ahead, cost, rate = state->rate;
	__u32 length;
	int tcp;

	if (!rate)
		return PASS;
	length = wire_length(skb, &tcp);
	cost = length * SECOND_NS / rate;
	now = bpf_ktime_get_ns();
	at = state->empty_at;
	if (at < now)
		at = now;
	wait = at - now;
	ahead = state->burst_ns + AHEAD_NS + AHEAD_BYTES * SECOND_NS / rate;
	__sync_fetch_and_add(&state->window_bytes, length);
	set_pace(state, now, wait, ahead);
	__sync_fetch_and_add(&state->bytes, length);
	if (wait > ahead)
		__sync_fetch_and_add(&state->limited_bytes, length);
	if (!tcp && wait > state->burst_ns) {
		__u64 share = state->datagrams_at < now ? now : state->datagrams_at;

		if (share - now > DATAGRAM_BYTES * DATAGRAM_PART * SECOND_NS / rate)
			goto drop;
		state->datagrams_at = share + cost * DATAGRAM_PART;
	}
	if (wait > state->tcp_burst_ns)
		goto drop;
	state->empty_at = at + cost;
	return tcp && wait > TELL_NS ? PASS_AND_TELL : PASS;
drop:
	__sync_fetch_and_add(&state->dropped_packets, 1);
	return DROP_AND_TELL;
}

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct bh_inward);
} bh_inward_1 SEC(".maps");

SEC("cgroup_skb/ingress")
int bh_ceiling_in(struct __sk_buff *skb)
{
	struct bh_inward *state = bpf_get_local_storage(&bh_inward_1, 0);
	__u64 now, at, rate = state->rate;
	__u32 length;
	int tcp;

	if (!rate)
		return PASS;
	length = wire_length(skb, &tcp);
	now = bpf_ktime_get_ns();
	at = state->empty_at;
	if (at < now)
		at = now;
	__sync_fetch_and_add(&state->bytes, length);
	if (at - now > (tcp ? state->tcp_burst_ns : state->burst_ns)) {
		__sync_fetch_and_add(&state->limited_bytes, length);
		__sync_fetch_and_add(&state->dropped_packets, 1);
		return 0;
	}
	state->empty_at = at + length * SECOND_NS / rate;
	return PASS;
}

struct bh_window {
	__u32 bound; /* 0: none */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bh_window);
} bh_window_1 SEC(".maps");

/* Seldom: the option sets the slow start threshold as well. `pace` 0: as large as it likes. */
static __always_inline void bound_window(struct bpf_sock_ops *ctx, __u64 pace)
{
	struct bpf_sock *sk = ctx->sk;
	struct bh_window *window;
	__u64 wanted = 0;
	__u32 mss = ctx->mss_cache, apart;
	int value;

	if (!sk)
		return;
	if (pace && mss) {
		/* srtt_us is eighths of microseconds. */
		wanted = pace * ((__u64)ctx->srtt_us / 4 + 10000) / 1000000 / mss;
		if (wanted < WINDOW_LEAST)
			wanted = WINDOW_LEAST;
		if (wanted > WINDOW_BOUNDED)
			wanted = 0;
	}
	window = bpf_sk_storage_get(&bh_window_1, sk, 0, wanted ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!window)
		return;
	apart = window->bound > wanted ? window->bound - wanted : wanted - window->bound;
	if (wanted && apart * 4 <= window->bound)
		return;
	if (window->bound == wanted)
		return;
	value = wanted ? wanted : WINDOW_FREE;
	if (!bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, &value, sizeof(value)))
		window->bound = wanted;
}

static __always_inline void apply(struct bpf_sock_ops *ctx, struct bh_ceiling *state)
{
	/* All bits set: as fast as it likes (sk_setsockopt, net/core/sock.c). */
	__u32 pace = 0xffffffff;

	if (!state->rate && !state->was_limited)
		return;
	if (state->rate) {
		__u64 wanted = state->pace ? state->pace : state->rate;

		pace = wanted < 0xffffffff ? wanted : 0xfffffffe;
	}
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &pace, sizeof(pace));
	bound_window(ctx, state->rate ? pace : 0);
}

/* A program may have one storage of each type (bpf_cgroup_storage_assign, kernel/bpf/local_storage.c). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct bh_tcp);
} bh_tcp_1 SEC(".maps");

SEC("sockops")
int bh_pace(struct bpf_sock_ops *ctx)
{
	struct bh_ceiling *state = bpf_get_local_storage(&bh_ceiling_1, 0);

	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		/* Once in a round trip, and for what is sent again. */
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG |
						       BPF_SOCK_OPS_RETRANS_CB_FLAG);
		apply(ctx, state);
		break;
	case BPF_SOCK_OPS_RETRANS_CB: {
		struct bh_tcp *tcp = bpf_get_local_storage(&bh_tcp_1, 0);

		/* Its second argument: how many segments. */
		tcp->retransmits += ctx->args[1];
		break;
	}
	case BPF_SOCK_OPS_RTT_CB:
		if (state->rate) {
			/* srtt_us is eighths of microseconds. */
			__u64 rtt = (__u64)ctx->srtt_us * 125;

			state->rtt_ns = state->rtt_ns - state->rtt_ns / 16 + rtt / 16;
		}
		apply(ctx, state);
		break;
	}
	return 1;
}

/* bpf_setsockopt and the others are not for GPL programs only. */
char LICENSE[] SEC("license") = "Apache-2.0";
