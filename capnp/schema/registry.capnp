@0xb7e40c92d15f6a83;
# The registry, as its registrar writes it to the replicated log. Ordinals are never reused: what an earlier program wrote is
# read for ever. What an older program would misread is named in minimumCapabilities, and it refuses to lead.

struct Record {
  # One write.
  sequence @0 :UInt64;
  union {
    snapshot @1 :Registry;
    delta @2 :List(Edit);       # on top of sequence - 1
  }
}

# ---- resources

struct Range {
  begin @0 :UInt64;
  end @1 :UInt64;
}

struct Label {
  key @0 :Text;
  value @1 :Text;               # null: none
}

struct Reservation {
  fixed @0 :Bool;
  role @1 :Text;
  principal @2 :Text;           # null: none
  labels @3 :List(Label);
}

struct DiskInfo {
  volume :union {
    none @0 :Void;
    persistent :group {
      id @1 :Text;
      principal @2 :Text;       # null: none
      containerPath @3 :Text;
    }
  }
  source :union {
    root @4 :Void;
    path @5 :Text;
    mount @6 :Text;
  }
}

struct Resource {
  name @0 :Text;
  amount :union {
    milli @1 :UInt64;
    ranges @2 :List(Range);
    set @3 :List(Text);
  }
  reservations @4 :List(Reservation);
  disk @5 :DiskInfo;            # null: none
  revocable @6 :Bool;
  shared @7 :Bool;
  provider @8 :Text;            # null: none
}

struct Attribute {
  name @0 :Text;
  value :union {
    milli @1 :UInt64;
    ranges @2 :List(Range);
    text @3 :Text;
  }
}

struct NamedAmount {
  name @0 :Text;
  milli @1 :UInt64;
}

# ---- who and what

struct Master {
  id @0 :Text;
  hostname @1 :Text;
  address @2 :Text;
  version @3 :Text;
  term @4 :UInt64;
}

struct Agent {
  hostname @0 :Text;
  address @1 :Text;
  resources @2 :List(Resource);
  attributes @3 :List(Attribute);
  version @4 :Text;
  capabilities @5 :List(Text);
}

struct OptionalSeconds {
  union {
    none @0 :Void;
    seconds @1 :UInt64;
  }
}

struct Drain {
  graceMax @0 :OptionalSeconds;
  markGone @1 :Bool;
  drained @2 :Bool;
}

struct Admitted {
  id @0 :Text;
  agent @1 :Agent;
  drain @2 :Drain;              # null: none
  deactivated @3 :Bool;
  reserved @4 :List(Resource);
  key @5 :Text;                 # empty: none
}

struct Unreachable {
  since @0 :UInt64;
  admitted @1 :Admitted;
}

struct Gone {
  id @0 :Text;
  since @1 :UInt64;
}

struct Framework {
  id @0 :Text;
  name @1 :Text;
  user @2 :Text;
  roles @3 :List(Text);
  principal @4 :Text;           # null: none
  failoverTimeoutSeconds @5 :UInt64;
  capabilities @6 :List(Text);
  checkpoint @7 :Bool;
}

struct Quota {
  role @0 :Text;
  guarantees @1 :List(NamedAmount);
  limits @2 :List(NamedAmount);
}

struct Machine {
  hostname @0 :Text;
  address @1 :Text;
}

enum MachineMode {
  draining @0;
  down @1;
}

struct MachineState {
  machine @0 :Machine;
  mode @1 :MachineMode;
}

struct Window {
  machines @0 :List(Machine);
  startNanoseconds @1 :Int64;
  duration :union {
    forever @2 :Void;
    nanoseconds @3 :UInt64;
  }
}

struct Registry {
  master @0 :Master;            # null: none yet
  agents @1 :List(Admitted);
  unreachable @2 :List(Unreachable);
  gone @3 :List(Gone);
  frameworks @4 :List(Framework);
  quota @5 :List(Quota);
  weights @6 :List(NamedAmount);
  machines @7 :List(MachineState);
  schedule @8 :List(Window);
  minimumCapabilities @9 :List(Text);
}

# ---- changes

struct AgentEdit {
  id @0 :Text;
  agent @1 :Agent;
  key @2 :Text;                 # of admit; empty: none
}

struct Edit {
  union {
    lead @0 :Master;
    admit @1 :AgentEdit;
    updateAgent @2 :AgentEdit;
    markUnreachable @3 :Gone;
    markReachable @4 :AgentEdit;
    remove @5 :Text;
    markGone @6 :Gone;
    drain :group {
      id @7 :Text;
      graceMax @8 :OptionalSeconds;
      markGone @9 :Bool;
    }
    markDrained @10 :Text;
    deactivate @11 :Text;
    reactivate @12 :Text;
    reserve :group {
      id @13 :Text;
      reserved @14 :List(Resource);
    }
    prune :group {
      unreachable @15 :List(Text);
      gone @16 :List(Text);
    }
    putFramework @17 :Framework;
    removeFramework @18 :Text;
    setQuota @19 :List(Quota);
    setWeights @20 :List(NamedAmount);
    setSchedule @21 :List(Window);
    startMaintenance @22 :List(Machine);
    stopMaintenance @23 :List(Machine);
  }
}
