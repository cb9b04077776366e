//! Protocol errors, planted on purpose: the simulation has to find every one.
//!
//! Without the feature `planted-bugs` none of them can be asked for, and every question for one is a constant `false`.

macro_rules! bugs {
    ($($(#[doc = $text:literal])* $name:ident,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum PlantedBug { $($(#[doc = $text])* $name,)* }

        impl PlantedBug {
            pub const ALL: &[PlantedBug] = &[$(PlantedBug::$name,)*];

            /// What it does, for a table.
            pub fn text(self) -> &'static str {
                match self { $(PlantedBug::$name => concat!($($text),*),)* }
            }
        }
    };
}

bugs! {
    /// An EMPTY replica answers for the disk that it lost.
    AnswerWhileEmpty,
    /// A RECOVERING replica promises and accepts.
    VoteWhileRecovering,
    /// A write is accepted below the promised ballot.
    IgnorePromiseOnWrite,
    /// A lower ballot is promised as well.
    PromiseLower,
    /// A promise is not written down.
    PromiseUnrecorded,
    /// A write is acknowledged before it is durable.
    AckBeforeFlush,
    /// A promise leaves before it is durable.
    PromiseBeforeFlush,
    /// A ballot is used before it is durable, so that a restarted replica uses it again.
    PrepareBeforeFlush,
    /// An election takes the promised term instead of the next.
    ReuseTerm,
    /// Ballots do not tell their replica.
    BallotWithoutReplica,
    /// One replica less than a majority is enough.
    QuorumOneLess,
    /// One promise less than a majority is enough.
    PromiseQuorumOneLess,
    /// Writes are counted among the members before the last change.
    QuorumOfOldMembers,
    /// A second change of members is proposed before the first is agreed.
    TwoChangesAtOnce,
    /// Members change although a quorum of the new ones lacks entries.
    ChangeWithoutCatchUp,
    /// A proposed membership counts before it is agreed.
    ChangeCountsAtOnce,
    /// Entries are written behind a membership that is not agreed.
    WriteBehindChange,
    /// An added member pushes out another one.
    ChangeTwoMembers,
    /// A truncation may reach beyond the end.
    TruncateBeyondEnd,
    /// A truncation takes effect when accepted.
    TruncateUnlearned,
    /// A promise does not tell what was accepted.
    ForgetTailInPromise,
    /// A new coordinator does not take over what was accepted.
    ForgetFill,
    /// A new coordinator takes over the lowest epoch's entries.
    FillOldest,
    /// A new coordinator takes over the shortest tail of the highest epoch.
    FillShortest,
    /// A tail's membership does not count when the highest is looked for.
    FillByBallotOnly,
    /// An append is answered when it is durable at the coordinator alone.
    AnswerBeforeQuorum,
    /// A follower takes what it accepted for agreed.
    LearnOnAccept,
    /// What is committed is applied to entries accepted at another ballot.
    CommitAnyBallot,
    /// A write with a gap before it is accepted.
    AcceptWithGap,
    /// A coordinator's inheritance is accepted in pieces.
    AdoptInPieces,
    /// Old entries stay behind those of a new coordinator.
    KeepOldTail,
    /// A coordinator goes on after it was outbid.
    StayAfterRejection,
    /// A coordinator that was outbid goes on with its rival's ballot.
    TakeOverRivalBallot,
    /// A linearizable read is confirmed without asking anybody.
    ConfirmAlone,
    /// An election is over before its first entry is agreed.
    ElectedBeforeSettled,
    /// A coordinator leads when its first entry is agreed, by whomever.
    LeadWithoutAdoption,
    /// A coordinator does not learn what its quorum knows to be agreed.
    ElectedWithoutCatchUp,
    /// A majority is enough to initialise.
    InitialiseByQuorum,
    /// An empty replica votes as soon as all are empty.
    InitialiseInOnePhase,
    /// Differing proposals of first members are taken for the same.
    InitialiseAnyProposal,
    /// A replica with a lost disk goes on under its old incarnation.
    KeepIdentityOfLostDisk,
    /// A recovering replica replaces whichever disk its number has now.
    AdmitAnyDisk,
    /// An admitted replica votes before it has learned its admission.
    VoteBeforeCaughtUp,
    /// A recovering replica votes when it has what one peer has.
    VoteAfterOnePeer,
    /// A replica that is no member makes itself one.
    FourthReplicaVotes,
    /// A coordinator with outdated members is obeyed.
    IgnoreMembershipOfBallot,
    /// A learned membership does not raise the promise.
    MembershipPromisesNothing,
    /// What was accepted is forgotten at a restart.
    LoseTailOnRestart,
    /// What was promised is forgotten at a restart.
    LosePromiseOnRestart,
    /// Accepted entries are handed to peers as agreed.
    ServeUnlearned,
    /// A failed write is taken for a durable one.
    IgnorePersistFailure,
    /// Entries that are sent again are appended again.
    AppendAgainOnRetry,
    /// An append that may have happened is said not to have.
    CallLostRefused,
    /// A follower that catches up leaves out an entry.
    FetchSkips,
}

/// The one that is planted in a replica, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
}

impl Planted {
    #[cfg(feature = "planted-bugs")]
    pub fn new(bug: PlantedBug) -> Self {
        Self { bug: Some(bug) }
    }

    #[inline(always)]
    pub fn has(self, bug: PlantedBug) -> bool {
        #[cfg(feature = "planted-bugs")]
        {
            self.bug == Some(bug)
        }
        #[cfg(not(feature = "planted-bugs"))]
        {
            let _ = bug;
            false
        }
    }
}
