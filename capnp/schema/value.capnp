@0xb5d1c1a3f0e94a01;
# Values shared by every interface. Ordinals are never reused; an absent scalar limit is told by
# the `has` companion or by a union, never by a magic number.

struct KeyValue {
  key @0 :Text;
  value @1 :Text;
}

struct OptionalU64 {
  union { none @0 :Void; value @1 :UInt64; }
}

struct LimitU64 {
  # A ceiling that may be unset, lifted ("max"), or a number.
  union { unset @0 :Void; max @1 :Void; value @2 :UInt64; }
}

struct DeviceLimit {
  device @0 :Text;             # path or MAJOR:MINOR
  readBps @1 :OptionalU64;     # bytes a second
  writeBps @2 :OptionalU64;
  readIops @3 :OptionalU64;    # operations a second
  writeIops @4 :OptionalU64;
}

struct Limits {
  cpusMilli @0 :UInt32;         # thousandths of a CPU; 0 = unset
  cpuLimitMilli @1 :LimitU64;   # thousandths of a CPU
  cpuBurstMs @2 :OptionalU64;
  memBytes @3 :LimitU64;
  memSoftBytes @4 :OptionalU64;
  memHighBytes @5 :LimitU64;
  memMinBytes @6 :OptionalU64;
  swapBytes @7 :LimitU64;
  pids @8 :LimitU64;
  cpusetCpus @9 :Text;          # empty = unset
  cpusetMems @10 :Text;
  ioWeight @11 :UInt16;         # 0 = unset
  ioDevices @12 :List(DeviceLimit);
  diskBytes @13 :LimitU64;      # max = only measured
  bandwidth @14 :Bandwidth;     # null pointer = unset
}

struct Bandwidth {
  # Rates in bits a second on the wire.
  egressBits @0 :LimitU64;      # max lifts the agent's default
  ingressBits @1 :LimitU64;
  egressBurstBytes @2 :OptionalU64;
  ingressBurstBytes @3 :OptionalU64;
  weight @4 :OptionalU64;
  egressMinBits @5 :OptionalU64;
  ingressMinBits @6 :OptionalU64;
}

struct PortRange {
  # Both belong to it.
  first @0 :UInt16;
  last @1 :UInt16;
}

struct PortRequest {
  union {
    any @0 :UInt16;             # so many
    row @1 :UInt16;             # so many in a row
    these @2 :List(PortRange);
  }
}

struct PortGrant {
  allotted @0 :List(PortRange);
  ephemeral @1 :PortRange;      # null pointer = the host's
}

struct Volume {
  source @0 :Text;
  target @1 :Text;
  readOnly @2 :Bool;
}

struct Rlimit {
  name @0 :Text;
  soft @1 :OptionalU64;         # none = unlimited
  hard @2 :OptionalU64;
}

struct DeviceRule {
  path @0 :Text;
  read @1 :Bool;
  write @2 :Bool;
  mknod @3 :Bool;
}

struct TerminalSize {
  rows @0 :UInt16;
  columns @1 :UInt16;
}

enum Network { host @0; none @1; mapped @2; }
enum Seccomp { default @0; unconfined @1; }

struct LaunchSpec {
  id @0 :Text;                  # empty = the agent makes one
  name @1 :Text;                # empty = none
  command @2 :List(Text);
  env @3 :List(KeyValue);
  user @4 :Text;                # empty = root
  workdir @5 :Text;
  hostname @6 :Text;
  rootfs @7 :Text;
  volumes @8 :List(Volume);
  limits @9 :Limits;
  network @10 :Network;
  capabilitiesAdd @11 :List(Text);
  capabilitiesDrop @12 :List(Text);
  rlimits @13 :List(Rlimit);
  seccomp @14 :Seccomp;
  devices @15 :List(DeviceRule);
  terminal @16 :TerminalSize;   # null pointer = no terminal
  stdin @17 :Bool;
  remove @18 :Bool;
  timeoutMs @19 :OptionalU64;
  graceMs @20 :UInt64 = 10000;
  labels @21 :List(KeyValue);
  outputFileBytes @22 :UInt64 = 10485760;
  outputFiles @23 :UInt32 = 3;
  userns @24 :UserNamespace;    # null pointer = the host's
  ports @25 :PortRequest;       # null pointer = none of its own
  grant @26 :PortGrant;         # null pointer in a request: the agent chooses
}

struct UserNamespace {
  count @0 :UInt32;             # ids 0 to count-1 inside
  base @1 :OptionalU64;         # the first one's number outside; none in a request: the agent chooses
}

struct ExecSpec {
  command @0 :List(Text);
  env @1 :List(KeyValue);
  user @2 :Text;
  workdir @3 :Text;
  terminal @4 :TerminalSize;    # null pointer = no terminal
  stdin @5 :Bool;
}

enum ContainerState { admitted @0; prepared @1; forked @2; isolated @3; running @4; killing @5; destroyed @6; }
enum Reason { exited @0; signaled @1; killed @2; timeout @3; memoryLimit @4; diskLimit @5; launchFailed @6; lost @7; }

struct Counter {
  name @0 :Text;
  value @1 :UInt64;
}

struct Limitation {
  reason @0 :Reason;
  message @1 :Text;
  limitBytes @2 :OptionalU64;
  peakBytes @3 :OptionalU64;
  statistics @4 :List(Counter);
}

struct Termination {
  exitStatus @0 :Int32;
  signal @1 :Int32;             # 0 = none
  reason @2 :Reason;
  message @3 :Text;
  limitation @4 :Limitation;    # null pointer = none
  finishedAtMs @5 :UInt64;
}

struct ContainerStatus {
  id @0 :Text;
  name @1 :Text;
  state @2 :ContainerState;
  pid @3 :Int32;                # 0 = none
  command @4 :List(Text);
  limits @5 :Limits;
  network @6 :Network;
  labels @7 :List(KeyValue);
  createdAtMs @8 :UInt64;
  startedAtMs @9 :UInt64;       # 0 = not started
  sandbox @10 :Text;
  terminal @11 :Bool;
  termination @12 :Termination; # null pointer = not over
  waitsFor @13 :Text;           # empty = nothing
  grant @14 :PortGrant;         # null pointer = no ports of its own
}

enum FaultKind { none @0; invalid @1; unsupported @2; notFound @3; conflict @4; state @5; exhausted @6; denied @7;
  failed @8; commandNotFound @9; commandNotExecutable @10; unavailable @11; }

struct Fault {
  kind @0 :FaultKind;           # none = no fault
  field @1 :Text;
  message @2 :Text;
  remedy @3 :Text;
}

struct Usage {
  # Mesos' ResourceStatistics; a bit of `present` (bit = ordinal of the field - 2) tells which are measured.
  timestamp @0 :Float64;        # seconds since the epoch
  present @1 :UInt64;
  processes @2 :UInt32;
  threads @3 :UInt32;
  cpusUserTimeSecs @4 :Float64;
  cpusSystemTimeSecs @5 :Float64;
  cpusLimit @6 :Float64;
  cpusSoftLimit @7 :Float64;
  cpusNrPeriods @8 :UInt64;
  cpusNrThrottled @9 :UInt64;
  cpusThrottledTimeSecs @10 :Float64;
  memTotalBytes @11 :UInt64;
  memTotalMemswBytes @12 :UInt64;
  memLimitBytes @13 :UInt64;
  memSoftLimitBytes @14 :UInt64;
  memPeakBytes @15 :UInt64;
  memFileBytes @16 :UInt64;
  memCacheBytes @17 :UInt64;
  memAnonBytes @18 :UInt64;
  memRssBytes @19 :UInt64;
  memMappedFileBytes @20 :UInt64;
  memSwapBytes @21 :UInt64;
  memUnevictableBytes @22 :UInt64;
  memKmemUsageBytes @23 :UInt64;
  memLimitHits @24 :UInt64;
  memOomKills @25 :UInt64;
  pidsLimit @26 :UInt64;
  pidsRefused @27 :UInt64;
  ioReadBytes @28 :UInt64;
  ioWriteBytes @29 :UInt64;
  ioReads @30 :UInt64;
  ioWrites @31 :UInt64;
  cpuPressure @32 :Pressure;    # null pointer = not measured; without a bit in `present`
  memPressure @33 :Pressure;
  ioPressure @34 :Pressure;
  diskLimitBytes @35 :UInt64;
  diskUsedBytes @36 :UInt64;
  netRxPackets @37 :UInt64;
  netRxBytes @38 :UInt64;
  netRxErrors @39 :UInt64;
  netRxDropped @40 :UInt64;
  netTxPackets @41 :UInt64;
  netTxBytes @42 :UInt64;
  netTxErrors @43 :UInt64;
  netTxDropped @44 :UInt64;
  netTcpRttMicrosecsP50 @45 :Float64;
  netTcpRttMicrosecsP90 @46 :Float64;
  netTcpRttMicrosecsP95 @47 :Float64;
  netTcpRttMicrosecsP99 @48 :Float64;
  netTcpActiveConnections @49 :Float64;
  netTcpTimeWaitConnections @50 :Float64;
  netTxRateLimit @51 :UInt64;
  netTxBurstSize @52 :UInt64;
  netRxRateLimit @53 :UInt64;
  netRxBurstSize @54 :UInt64;
  netRxLimitedBytes @55 :UInt64;
  netTxLimitedBytes @56 :UInt64;
  netRxQueueDelayMicrosecs @57 :UInt64;
  netTxQueueDelayMicrosecs @58 :UInt64;
  netTcpRetransmits @59 :UInt64;
  netEphemeralPorts @60 :PortRange;  # null pointer = none; without a bit, as the next
  netDrops @61 :List(Counter);
  netSnmp @62 :List(Int64);       # runtime/model/src/snmp.rs has the names; empty = not measured
}

struct Stall {
  avg10Percent @0 :Float64;
  avg60Percent @1 :Float64;
  avg300Percent @2 :Float64;
  totalSecs @3 :Float64;
}

struct Pressure {
  some @0 :Stall;
  full @1 :Stall;               # null pointer = the kernel does not tell
}

struct ContainerUsage {
  id @0 :Text;
  name @1 :Text;
  usage @2 :Usage;
}

struct Removed {
  # What a finished container left on disk, removed or to be removed.
  id @0 :Text;
  name @1 :Text;                # empty = none, or not remembered
  ageMs @2 :UInt64;             # since its end
  bytes @3 :UInt64;
  files @4 :UInt64;
  directories @5 :UInt64;
  trouble @6 :Text;             # why it is still there; empty = none
}

enum EventKind { state @0; ended @1; limitHit @2; updated @3; exec @4; cleanupRetry @5; sandboxRemoved @6; portRefused @7; }

struct Event {
  sequence @0 :UInt64;
  atMs @1 :UInt64;
  container @2 :Text;
  name @3 :Text;
  kind @4 :EventKind;
  state @5 :ContainerState;     # state
  exitStatus @6 :Int32;         # ended
  reason @7 :Reason;            # ended
  message @8 :Text;             # ended, limitHit, cleanupRetry
  command @9 :List(Text);       # exec
  attempt @10 :UInt32;          # cleanupRetry
  bytes @11 :UInt64;            # sandboxRemoved
  files @12 :UInt64;            # sandboxRemoved
  port @13 :UInt16;             # portRefused
  refused @14 :UInt64;          # portRefused
}
