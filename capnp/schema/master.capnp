@0x9f2c61d7e8b3a540;
# A master at its door: agents that register, people and tools that ask.
#
# The bootstrap capability is `Gate`. Every result begins with a `fault`; its kind `none` means that the rest is valid. An agent
# opens the one connection, and hands in its `Orders`: what its master may ask of it. Each order carries the leader's term. An
# agent that has seen a higher one refuses it, and an agent that looks for another leader closes the connection, and with it
# every capability that went over it.

using Value = import "value.capnp";
using Agents = import "agent.capnp";
using Registry = import "registry.capnp";

interface Gate {
  authenticate @0 (client :Text, version :Text, scram :Text)
      -> (fault :Value.Fault, leader :Text, hall :Hall, challenge :Text, login :Login);
  # `scram`: the first message of SCRAM-SHA-256 (RFC 5802), or empty. With `challenge` the exchange goes on at `login`;
  # otherwise `hall` is there. A master that does not lead refuses with `leader` set to the `host:port` of the one that does.
}

interface Login {
  prove @0 (scram :Text) -> (fault :Value.Fault, verifier :Text, hall :Hall);
}

interface Hall {
  register @0 (hello :Hello, orders :Orders)
      -> (fault :Value.Fault, refusal :Refusal, welcome :Welcome, session :Session);
  operate @1 () -> (fault :Value.Fault, operator :Operator);
}

enum Refusal { retry @0; shutdown @1; }

enum TaskState { staging @0; starting @1; running @2; killing @3; unreachable @4; finished @5; failed @6; killed @7; error @8;
  lost @9; dropped @10; goneByOperator @11; }

struct TaskStatus {
  state @0 :TaskState;
  message @1 :Text;
  atMs @2 :UInt64;
  exitStatus @3 :Int32;
  hasExitStatus @4 :Bool;
}

struct Need {
  # In thousandths; memory and disk in megabytes.
  cpus @0 :UInt64;
  mem @1 :UInt64;
  disk @2 :UInt64;
  ports @3 :UInt32;
}

struct TaskReport {
  id @0 :Text;
  name @1 :Text;                # empty = none
  need @2 :Need;
  sequence @3 :UInt64;          # grows with each status of the task, and with each change of its need
  status @4 :TaskStatus;
}

struct Hello {
  id @0 :Text;                  # empty = never admitted
  agent @1 :Registry.Agent;
  bootId @2 :Text;
  term @3 :UInt64;              # the highest one seen
  tasks @4 :List(TaskReport);
  key @5 :Text;                 # without an id: the same in each attempt to get one
}

struct Welcome {
  id @0 :Text;
  term @1 :UInt64;
  silenceMaxMs @2 :UInt64;      # who hears nothing for so long looks for the leader again
}

interface Orders {
  # Implemented by an agent. An order of a lower term than the agent has seen is refused with the kind `denied`.
  launch @0 (term :UInt64, spec :Value.LaunchSpec) -> (fault :Value.Fault);
  # At most once for each id: a master that hears no answer never sends it again, it hears of the task when the agent
  # registers again, or not at all.
  kill @1 (term :UInt64, id :Text, graceMs :UInt64, hasGrace :Bool) -> (fault :Value.Fault);
  ping @2 (term :UInt64) -> (fault :Value.Fault);
  shutdown @3 (term :UInt64, message :Text) -> (fault :Value.Fault);
  # End all tasks: the agent is no longer of this cluster.
  reach @4 (term :UInt64) -> (fault :Value.Fault, agent :Agents.Agent);
  # What a person at the agent has: for looking at one task's output and figures.
  release @5 (term :UInt64) -> (fault :Value.Fault);
  # The session is over: register again.
  update @6 (term :UInt64, id :Text, limits :Value.Limits, need :Need) -> (fault :Value.Fault, report :TaskReport);
  # Other limits for a running task; what is not named stays. Refused if the task would take more than `need` then. The report
  # tells what it takes, and is told again as a status is: an answer that gets lost is no loss.
}

struct TaskRecord {
  # What an agent keeps of a task, in a file.
  report @0 :TaskReport;        # the last status
  untold @1 :List(TaskStatus);  # not acknowledged, oldest first
  bootId @2 :Text;
}

interface Session {
  # Implemented by a master, for one agent. Dropping it ends the session.
  update @0 (report :TaskReport) -> (fault :Value.Fault);
  # Answered without a fault when the master has it: it need not be said again.
}

struct AgentView {
  enum State { recovered @0; active @1; disconnected @2; unreachable @3; gone @4; }
  id @0 :Text;
  state @1 :State;
  agent @2 :Registry.Agent;
  deactivated @3 :Bool;
  used @4 :Need;
  tasks @5 :UInt32;
  registeredAtMs @6 :UInt64;
  reregisteredAtMs @7 :UInt64;
  sinceS @8 :UInt64;
}

struct TaskView {
  id @0 :Text;
  name @1 :Text;
  agent @2 :Text;
  hostname @3 :Text;
  need @4 :Need;
  statuses @5 :List(TaskStatus);
}

struct LeaderView {
  id @0 :Text;
  address @1 :Text;
  hostname @2 :Text;
  version @3 :Text;
  term @4 :UInt64;
  electedAtMs @5 :UInt64;
}

interface Operator {
  launch @0 (id :Text, agent :Text, spec :Value.LaunchSpec) -> (fault :Value.Fault, task :TaskView);
  # `agent` empty: the first with room. Answered when the agent has it.
  kill @1 (id :Text, graceMs :UInt64, hasGrace :Bool) -> (fault :Value.Fault);
  task @2 (idOrName :Text) -> (fault :Value.Fault, task :TaskView);
  tasks @3 (after :Text) -> (fault :Value.Fault, tasks :List(TaskView), more :Bool);
  agents @4 (after :Text) -> (fault :Value.Fault, agents :List(AgentView), more :Bool);
  # Both in the order of their ids, a page at a time.
  leader @5 () -> (fault :Value.Fault, leader :LeaderView);
  reach @6 (idOrName :Text) -> (fault :Value.Fault, id :Text, agent :Agents.Agent);
  # The agent of a task, through the master.
  markGone @7 (agent :Text) -> (fault :Value.Fault);
  setActive @8 (agent :Text, active :Bool) -> (fault :Value.Fault);
  drain @9 (agent :Text, graceMs :UInt64, hasGrace :Bool, markGone :Bool) -> (fault :Value.Fault);
  update @10 (id :Text, limits :Value.Limits) -> (fault :Value.Fault, task :TaskView);
  # Answered when its agent has done it.
}
