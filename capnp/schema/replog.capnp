@0xd5b8c1f27a60934e;
# The replicated log: what replicas say to each other, what they keep on disk, and what is asked of one.

struct Member {
  replica @0 :UInt64;
  incarnation @1 :UInt64;       # one life of its disk
}

struct Ballot {
  term @0 :UInt64;
  replica @1 :UInt64;
}

struct Epoch {
  since @0 :UInt64;             # position of the membership in force
  ballot @1 :Ballot;
}

struct Membership {
  since @0 :UInt64;
  ballot @1 :Ballot;
  members @2 :List(Member);
  log @3 :UInt64;  # 0: begun by a program that did not tell logs apart
}

struct Proposal {
  generation @0 :UInt64;
  members @1 :List(Member);
}

struct Entry {
  union {
    nop @0 :Void;
    append @1 :Data;
    truncate @2 :UInt64;        # positions before it are no longer needed
    membership @3 :Membership;
  }
}

enum Status {
  empty @0;
  starting @1;
  recovering @2;
  voting @3;
}

# ---- on disk

struct Meta {
  # What belongs to no position. The store frames and checks it.
  member @0 :Member;
  status @1 :Status;
  proposal @2 :Proposal;        # null: none
  membership @3 :Membership;    # null: none
  promised @4 :Ballot;
  accepted @5 :Epoch;
}

# ---- between replicas

struct Hello {
  round @0 :UInt64;
  answer @1 :Bool;
  status @2 :Status;
  initial :union { none @3 :Void; some @4 :List(UInt64); }
  proposal @5 :Proposal;        # null: none
  membership @6 :Membership;    # null: none
  learned @7 :UInt64;
  replaces :union { nothing @8 :Void; incarnation @9 :UInt64; }
  hears @10 :Bool;              # a coordinator, of late
}

struct Prepare {
  ballot @0 :Ballot;
  membership @1 :Membership;
  caretaker @2 :Bool;
}

struct Promise {
  ballot @0 :Ballot;
  begin @1 :UInt64;
  learned @2 :UInt64;
  accepted @3 :Epoch;
  tail @4 :List(Entry);
}

struct Write {
  ballot @0 :Ballot;
  membership @1 :Membership;
  settle @2 :UInt64;
  first @3 :UInt64;
  values @4 :List(Entry);
  committed @5 :UInt64;
  beat @6 :UInt64;
  urgent @7 :Bool;
}

struct Written {
  ballot @0 :Ballot;
  matched @1 :UInt64;
  learned @2 :UInt64;
  beat @3 :UInt64;
  gap @4 :Bool;
  adopted @5 :Bool;
}

struct Rejected {
  ballot @0 :Ballot;
  promised @1 :Ballot;
}

struct Outdated {
  ballot @0 :Ballot;
  membership @1 :Membership;
}

struct NotVoting {
  ballot @0 :Ballot;
  status @1 :Status;
}

struct Fetched {
  first @0 :UInt64;
  values @1 :List(Entry);
  begin @2 :UInt64;
  learned @3 :UInt64;
  membership @4 :Membership;    # null: none
}

struct Envelope {
  from @0 :Member;
  to @1 :UInt64;
  incarnation :union { any @2 :Void; only @3 :UInt64; }
  message :union {
    hello @4 :Hello;
    prepare @5 :Prepare;
    promise @6 :Promise;
    write @7 :Write;
    written @8 :Written;
    rejected @9 :Rejected;
    occupied @10 :Ballot;
    outdated @11 :Outdated;
    notVoting @12 :NotVoting;
    fetch @13 :UInt64;
    fetched @14 :Fetched;
  }
}

struct Parcel {
  # What one replica sends another at once: a frame of a link, one way. What is lost is said again by whoever needs it.
  envelopes @0 :List(Envelope);
}

# ---- what people and programs ask of one replica

struct LogStatus {
  replica @0 :UInt64;
  status @1 :Status;
  begin @2 :UInt64;
  learned @3 :UInt64;
  end @4 :UInt64;
  promised @5 :Ballot;
  writer @6 :Ballot;            # null: this replica is not the writer
  membership @7 :Membership;    # null: not known
  halted @8 :Text;              # empty: it works
  stalled @9 :Text;             # empty: it writes
}

struct ChangeRequest {
  union {
    add @0 :UInt64;
    remove @1 :UInt64;
    replace :group { out @2 :UInt64; by @3 :UInt64; }
  }
}

interface Log {
  status @0 () -> (status :LogStatus);
  # Makes this replica the writer, with a ballot of at least this term.
  elect @1 (term :UInt64) -> (position :UInt64, ballot :Ballot);
  # Answered when a quorum has all of them on disk.
  append @2 (entries :List(Data)) -> (positions :List(UInt64));
  truncate @3 (to :UInt64) -> (position :UInt64);
  # As many as fit; from this replica, agreed.
  read @4 (first :UInt64, last :UInt64) -> (entries :List(Entry));
  catchUp @5 () -> (end :UInt64);
  change @6 (request :ChangeRequest) -> (membership :Membership);
  # Permission to begin a new log, where that is not automatic.
  initialize @7 ();
  # Entries one behind the other in `bytes`; each is appended or refused by itself. Where it stands, or 0: then `refusals`
  # has the reasons of these, in their order.
  appendEach @8 (bytes :Data, lengths :List(UInt32)) -> (positions :List(UInt64), refusals :List(Text));
}
