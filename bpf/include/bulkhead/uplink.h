/*
 * What the program at an uplink that is shared out and the agent both know. The Rust side is bpf/src/uplink.rs.
 */
#ifndef BULKHEAD_UPLINK_H
#define BULKHEAD_UPLINK_H

/* Containers in the host's network that have a class of their own. */
#define BH_GROUPS 4096
/* How deep in the v2 tree a container's group may lie. */
#define BH_LEVELS 8
/* Minor number of the class of all others. */
#define BH_HOST_MINOR 0xfffd

#endif
