@0xe3a1c57d90b2461f;
# What an agent must never forget about a container. Framed on disk by magic, version, length and
# checksum (src/checkpoint.rs); the version there grows when an old agent could misread a new record.

using Value = import "value.capnp";

struct ProcessIdentity {
  pid @0 :Int32;
  startTime @1 :UInt64;         # clock ticks since boot, field 22 of stat, proc(5)
  bootId @2 :Text;
}

struct KeptDescriptor {
  # Open in the init, for a later agent.
  name @0 :Text;
  number @1 :Int32;
}

struct Checkpoint {
  instance @0 :Text;
  id @1 :Text;
  spec @2 :Value.LaunchSpec;
  state @3 :Value.ContainerState;
  limits @4 :Value.Limits;      # in force: those of spec and every update since
  init @5 :ProcessIdentity;     # null pointer = not cloned yet
  kept @6 :List(KeptDescriptor);
  sandbox @7 :Text;
  createdAtMs @8 :UInt64;
  startedAtMs @9 :Value.OptionalU64;
  killing :union { no @10 :Void; reason @11 :Value.Reason; }
  killAtMs @12 :Value.OptionalU64;
  termination @13 :Value.Termination;  # null pointer = not over
  updating @14 :Value.Limits;   # being put in force, promised to nobody yet; null pointer = none
  networkSlot @16 :Value.OptionalU64;  # place in the network's maps; none unless mapped
  startMarked @15 :Bool;        # the init marks in the status file that the command is about to start
}
