//! Going on with the agent's successor.
//!
//! An agent may be restarted while its containers run. What a client had attached and waited for is
//! then asked for again, by id.

use std::time::Duration;

use model::{ContainerId, Fault, FaultKind, Termination};

use crate::agent::Agent;
use crate::container::{Container, LogOptions};
use crate::endpoint::Endpoint;
use crate::input::Input;
use crate::output::{OutputEnd, OutputEnded};
use crate::resumable::Resumable;

/// How long to look for a successor. The time begins anew each time that an agent was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    pub patience: Duration,
}

/// How often the output of a container that has ended is asked for again.
const CUTS_MAX: u32 = 8;

impl Default for Reconnect {
    /// An agent restarts in well under a second, its host's service manager may pause before; a person
    /// who waits wants to know after half a minute.
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
        }
    }
}

impl Reconnect {
    /// The end of a container, over any number of agent restarts.
    pub async fn wait(&self, endpoint: &Endpoint, id: &ContainerId) -> Result<Termination, Fault> {
        loop {
            match self.wait_once(endpoint, id).await {
                Err(fault) if fault.kind == FaultKind::Unavailable => {
                    self.still_there(endpoint, fault).await?
                }
                result => return result,
            }
        }
    }

    async fn wait_once(&self, endpoint: &Endpoint, id: &ContainerId) -> Result<Termination, Fault> {
        let agent = Agent::connect_retry(endpoint, self.patience).await?;
        agent.container(id.as_str()).await?.wait().await
    }

    /// Goes on with the output and the end of a container that was attached from the beginning.
    /// `on_input` gets the new stdin each time, if there is one. The second result tells whether the
    /// output is whole: it is not if an agent went away in the middle of it and none came after.
    pub async fn follow(
        &self,
        endpoint: &Endpoint,
        id: &ContainerId,
        output: &Resumable,
        mut on_input: impl FnMut(Option<Input>),
    ) -> Result<(Termination, OutputEnded), Fault> {
        let mut cuts = 0;
        loop {
            match self.follow_once(endpoint, id, output, &mut on_input).await {
                Err(fault) if fault.kind == FaultKind::Unavailable => {
                    self.still_there(endpoint, fault).await?
                }
                // The end is known and the agent went away before the last of the output had come. Its successor
                // has kept that; but an output that is cut again and again would be a wait for ever.
                Ok(end @ (_, OutputEnded::Cut)) if cuts < CUTS_MAX => {
                    cuts += 1;
                    if Agent::connect_retry(endpoint, self.patience).await.is_err() {
                        return Ok(end);
                    }
                }
                result => return result,
            }
        }
    }

    async fn follow_once(
        &self,
        endpoint: &Endpoint,
        id: &ContainerId,
        output: &Resumable,
        on_input: &mut impl FnMut(Option<Input>),
    ) -> Result<(Termination, OutputEnded), Fault> {
        let agent = Agent::connect_retry(endpoint, self.patience).await?;
        let container = agent.container(id.as_str()).await?;
        let end = attach_again(&container, output, on_input).await?;
        // The wait first: when the agent goes away it fails, while the output only stops.
        let termination = container.wait().await?;
        Ok((termination, end.await?))
    }

    /// The fault, if it was the looking itself that took all the time there is.
    async fn still_there(&self, endpoint: &Endpoint, fault: Fault) -> Result<(), Fault> {
        match Agent::connect_retry(endpoint, self.patience).await {
            Ok(_) => Ok(()),
            Err(again) if again.kind == FaultKind::Unavailable => Err(fault),
            Err(again) => Err(again),
        }
    }
}

/// A container that has ended meanwhile can not be attached to; what it wrote is still kept.
async fn attach_again(
    container: &Container,
    output: &Resumable,
    on_input: &mut impl FnMut(Option<Input>),
) -> Result<OutputEnd, Fault> {
    output.restart();
    match container.attach(Box::new(output.clone()), true).await {
        Ok(attached) => {
            on_input(attached.input);
            Ok(attached.output)
        }
        Err(fault) if fault.kind == FaultKind::State => {
            output.restart();
            container
                .logs(Box::new(output.clone()), LogOptions::default())
                .await
        }
        Err(fault) => Err(fault),
    }
}
