//! Errors of a master, planted on purpose: the simulation has to find every one.
//!
//! Without the feature `planted-bugs` none of them can be asked for, and every question for one is a constant `false`.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlantedBug {
    /// An agent is let in before the registry knows it.
    WelcomeUnwritten,
    /// An agent is told of as unreachable before the registry knows it.
    UnreachableUnwritten,
    /// The tasks of an agent that is marked gone stay as they are.
    GoneTasksStay,
    /// An agent whose welcome got lost is a second agent.
    ForgetKey,
    /// The same launch, asked for again, is placed again.
    LaunchTwice,
    /// The resources of a task that has ended stay taken.
    KeepCharge,
    /// A task that its agent does not know is waited for.
    MissingStays,
    /// What an agent says of a task is acknowledged, and nothing else.
    AcknowledgeUnread,
    /// What an agent says that a task takes now is not read.
    NeedUnread,
    /// The room for a change that is over stays taken.
    KeepPromise,
}

impl PlantedBug {
    pub const ALL: &[Self] = &[
        Self::WelcomeUnwritten,
        Self::UnreachableUnwritten,
        Self::GoneTasksStay,
        Self::ForgetKey,
        Self::LaunchTwice,
        Self::KeepCharge,
        Self::MissingStays,
        Self::AcknowledgeUnread,
        Self::NeedUnread,
        Self::KeepPromise,
    ];
}

/// The one that is planted in a master, if any.
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
