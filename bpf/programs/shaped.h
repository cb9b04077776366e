/* The state of ceilings, one map for the steering programs and those of bandwidth.bpf.c: found by its pin. */
#ifndef BULKHEAD_SHAPED_H
#define BULKHEAD_SHAPED_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "bulkhead/bandwidth.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct bh_shaped);
	__uint(max_entries, BH_SHAPED);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} shaped SEC(".maps");

#endif
