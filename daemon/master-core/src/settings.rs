//! What bounds a master, with Mesos' defaults.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Of this leadership: ids of agents begin with it.
    pub master_id: String,
    /// Travels in every order.
    pub term: u64,
    pub ping_interval: Duration,
    /// Pings without an answer until an agent is unreachable.
    pub pings_max: u32,
    /// For the agents of the registry to come back after an election.
    pub reregister_timeout: Duration,
    /// So many agents become unreachable in so long.
    pub removal_limit: Option<(u32, Duration)>,
    /// If more than this share of all agents has not come back, somebody should look first.
    pub recovery_removal_limit_percent: u32,
    /// An agent with an id that the registry does not know is told to shut down. Otherwise it is admitted.
    pub strict: bool,
    /// Ended tasks that are remembered; about 500 bytes each.
    pub ended_max: usize,
    /// Launches that wait for their agent's answer: beyond it they are refused at once.
    pub launching_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            master_id: String::new(),
            term: 0,
            ping_interval: Duration::from_secs(15),
            pings_max: 5,
            reregister_timeout: Duration::from_secs(600),
            removal_limit: None,
            recovery_removal_limit_percent: 100,
            strict: true,
            ended_max: 10_000,
            launching_max: 10_000,
        }
    }
}

impl Settings {
    /// An agent that says nothing for so long is unreachable.
    pub fn silence_max(&self) -> Duration {
        self.ping_interval.saturating_mul(self.pings_max)
    }
}
