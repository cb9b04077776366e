@0xd0f7b5a2c6e84b02;
# A person, a tool or a master at one agent.
#
# The bootstrap capability is `Gate`. Every result begins with a `fault`: its kind `none` means that the
# rest is valid. A call that can not be answered because the peer is gone fails with the RPC's own
# `disconnected`.

using Value = import "value.capnp";

interface Gate {
  # All that a stranger gets. Over the unix socket the peer's credentials decide; over TCP the token.
  authenticate @0 (client :Text, version :Text, token :Data) -> (fault :Value.Fault, agent :Agent);
}

struct VersionInfo {
  version @0 :Text;
  gitSha @1 :Text;
  buildDate @2 :Text;
  startedAtMs @3 :UInt64;
  pid @4 :Int32;
  instance @5 :Text;
  httpAddress @6 :Text;     # empty = no HTTP server
  workDir @7 :Text;
  runtimeDir @8 :Text;
}

struct HostInfo {
  # One isolator or fact of the host: by which mechanism it works, or why it does not.
  struct Line {
    name @0 :Text;
    active @1 :Bool;
    mechanism @2 :Text;
    missing @3 :Text;
  }
  isolators @0 :List(Line);
  kernelRelease @1 :Text;
  cgroupLayout @2 :Text;
  cpus @3 :UInt32;
  memoryBytes @4 :UInt64;
}

interface Agent {
  launch @0 (spec :Value.LaunchSpec, output :OutputSink, lossless :Bool)
      -> (fault :Value.Fault, container :Container, id :Text, existed :Bool, input :InputSink);
  # `output`, if not null, is attached before the command starts, so no byte is missed. With `lossless`
  # the command waits for the sink instead of the sink losing bytes. `existed`: a repeated launch of the same id.

  container @1 (idOrName :Text) -> (fault :Value.Fault, container :Container, id :Text);
  # By id, unambiguous beginning of an id (4 characters or more), or name.

  list @2 (all :Bool) -> (fault :Value.Fault, containers :List(Value.ContainerStatus));
  # `all` includes those that have ended and are still remembered.

  statistics @3 (ids :List(Text)) -> (fault :Value.Fault, samples :List(Value.ContainerUsage));
  # Empty list: of every running container.

  watchStatistics @4 (ids :List(Text), intervalMs :UInt32, sink :StatisticsSink) -> (fault :Value.Fault, subscription :Subscription);
  watchEvents @5 (afterSequence :UInt64, sink :EventSink) -> (fault :Value.Fault, subscription :Subscription);
  # Replays what is remembered after that sequence number, then goes on live.

  drain @6 (graceMs :UInt64) -> (fault :Value.Fault, killed :UInt32);
  # Refuses further launches, kills every container gracefully, answers when all are gone.

  version @7 () -> (info :VersionInfo);
  host @8 () -> (info :HostInfo);
  ping @9 (payload :Data) -> (payload :Data);

  collect @10 (ids :List(Text), which :Which, olderThanMs :UInt64, dryRun :Bool)
      -> (fault :Value.Fault, removed :List(Value.Removed));
  # Removes what finished containers left on disk, or only tells what would go. Answers when all of it has been tried.
  enum Which { due @0; olderThan @1; named @2; }
  # due: what the agent would remove by itself now. named: the containers of `ids`.

  explain @11 (question :PacketQuestion) -> (fault :Value.Fault, verdict :Text, steps :List(Text));
  # What would happen to a packet, and why.
}

struct PacketQuestion {
  from :union { outside @0 :Void; host @1 :Void; container @2 :Text; }  # id or name
  transport @3 :Transport;
  enum Transport { tcp @0; udp @1; icmp @2; }
  destination @4 :Text;      # an IP address; empty = the host's own
  destinationPort @5 :UInt16;
  sourcePort @6 :UInt16;     # 0 = one that the sender may use
}

interface Container {
  inspect @0 () -> (fault :Value.Fault, status :Value.ContainerStatus, spec :Value.LaunchSpec, detail :List(Value.KeyValue));
  wait @1 () -> (fault :Value.Fault, termination :Value.Termination);
  # Answers when the container is over and everything of it is cleaned up.
  kill @2 (signal :Int32, graceMs :UInt64, hasGrace :Bool) -> (fault :Value.Fault);
  # signal 0: graceful kill (SIGTERM, grace period, then everything). Another signal: just delivered; 9 kills all at once.
  update @3 (limits :Value.Limits) -> (fault :Value.Fault, limits :Value.Limits);
  # Fields that are set replace the present ones.
  exec @4 (spec :Value.ExecSpec, output :OutputSink) -> (fault :Value.Fault, process :Process, input :InputSink);
  attach @5 (output :OutputSink, fromStart :Bool) -> (fault :Value.Fault, input :InputSink, subscription :Subscription);
  logs @6 (output :OutputSink, follow :Bool, stdout :Bool, stderr :Bool, tailLines :UInt32) -> (fault :Value.Fault, subscription :Subscription);
  # tailLines 0: from the beginning of what is kept.
  statistics @7 () -> (fault :Value.Fault, usage :Value.Usage);
  resize @8 (size :Value.TerminalSize) -> (fault :Value.Fault);
}

interface Process {
  # A process started by exec.
  wait @0 () -> (fault :Value.Fault, termination :Value.Termination);
  signal @1 (signal :Int32) -> (fault :Value.Fault);
  resize @2 (size :Value.TerminalSize) -> (fault :Value.Fault);
}

interface OutputSink {
  # Implemented by the client.
  write @0 (stream :UInt8, data :Data) -> stream;  # 1 stdout (and the terminal), 2 stderr
  gap @1 (stream :UInt8, bytes :UInt64) -> ();     # so many bytes were rotated away before they were read
  done @2 () -> ();                                # nothing more will come
}

interface InputSink {
  # Implemented by the agent: stdin of the command. Dropping it closes stdin.
  write @0 (data :Data) -> stream;
  close @1 () -> ();
}

interface StatisticsSink {
  push @0 (samples :List(Value.ContainerUsage)) -> stream;
}

interface EventSink {
  push @0 (event :Value.Event) -> stream;
}

interface Subscription {
  # Dropping it ends it.
}
