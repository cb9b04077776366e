//! Ids of user-namespaced containers. Nothing is kept of who has which: it stands in the specification of every
//! container that is not over, adopted ones included, so it can neither leak nor be forgotten.

use model::{Fault, FaultKind, LaunchSpec, UserNamespace};

use crate::agent::AgentCore;

impl AgentCore {
    /// Gives a container that asked for them ids that no other has which is not over.
    pub(crate) fn assign_ids(&mut self, spec: &mut LaunchSpec) -> Result<(), Fault> {
        let Some(asked) = spec.userns else { return Ok(()) };
        let Some(pool) = self.settings.id_pool else {
            let message = "this agent has no ids to give to containers";
            return Err(Fault::unsupported("userns", message).remedy("set --userns-range"));
        };
        let taken = self
            .containers
            .values()
            .filter(|c| !c.is_over())
            .filter_map(|c| c.spec.userns?.range());
        let taken: Vec<_> = taken.collect();
        let Some(range) = pool.allocate(taken.iter().copied(), self.next_id, asked.count) else {
            let used: u64 = taken.iter().map(|range| u64::from(range.count)).sum();
            let message = format!(
                "no {} ids in a row are free: the pool {pool} holds {}, of which {} containers have {used}",
                asked.count,
                pool.count,
                taken.len()
            );
            let fault = Fault::new(FaultKind::Exhausted, message).field("userns");
            return Err(fault.remedy("end some of them, ask for fewer ids, or raise --userns-range"));
        };
        self.next_id = u32::try_from(range.end()).unwrap_or(0);
        spec.userns = Some(UserNamespace {
            base: Some(range.base),
            count: range.count,
        });
        Ok(())
    }
}

/// Whether a specification that was accepted is the one that is asked for now.
pub(crate) fn same_request(accepted: &LaunchSpec, asked: &LaunchSpec) -> bool {
    if accepted.userns.is_none() && accepted.grant.is_none() {
        return accepted == asked;
    }
    // The ids and the ports were our choice.
    let mut accepted = accepted.clone();
    accepted.userns = accepted.userns.map(UserNamespace::asked);
    accepted.grant = None;
    accepted == *asked
}

#[cfg(test)]
mod tests {
    use model::{ContainerId, IdRange, Millis};

    use crate::{AgentCore, Answer, Input, Now, Settings, Ticket, Wish};

    use super::*;

    const NOW: Now = Now {
        monotonic: Millis(1),
        wall_ms: 1,
    };

    fn core(pool: Option<&str>) -> AgentCore {
        let settings = Settings {
            id_pool: pool.map(|text| text.parse().unwrap()),
            ..Settings::default()
        };
        AgentCore::new(settings, 0)
    }

    fn spec(count: u32) -> LaunchSpec {
        LaunchSpec {
            command: vec!["true".into()],
            userns: Some(UserNamespace::of(count)),
            ..LaunchSpec::default()
        }
    }

    fn launch(core: &mut AgentCore, id: &str, count: u32) -> Result<IdRange, Fault> {
        let id: ContainerId = id.parse().unwrap();
        core.handle(
            NOW,
            Input::Launch {
                ticket: Ticket(1),
                id,
                spec: Box::new(spec(count)),
            },
        );
        let mut result = None;
        while let Some(wish) = core.poll() {
            match wish {
                Wish::Prepare { spec, .. } => result = spec.userns.and_then(UserNamespace::range).map(Ok),
                Wish::Answer {
                    answer: Answer::Refused(fault),
                    ..
                } => result = Some(Err(fault)),
                _ => {}
            }
        }
        result.expect("launched or refused")
    }

    fn fail(core: &mut AgentCore, id: &str) {
        let id: ContainerId = id.parse().unwrap();
        let result = Err(Fault::failed("x"));
        core.handle(NOW, Input::Prepared { id, result });
        while core.poll().is_some() {}
    }

    #[test]
    fn ranges_do_not_overlap_until_the_pool_is_empty() {
        let mut core = core(Some("100000:25"));
        let one = launch(&mut core, "c1", 10).unwrap();
        let two = launch(&mut core, "c2", 10).unwrap();
        assert!(!one.overlaps(two), "{one} {two}");
        let fault = launch(&mut core, "c3", 10).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Exhausted);
        assert_eq!(fault.field.as_deref(), Some("userns"));
        assert!(fault.message.contains("100000:25"), "{fault}");
        // A smaller one fits, and a name that was refused is not kept.
        assert_eq!(launch(&mut core, "c4", 5).unwrap().base, 100_020);
    }

    #[test]
    fn ids_of_one_that_is_being_cleaned_up_are_not_given_again() {
        let mut core = core(Some("100000:10"));
        launch(&mut core, "c1", 10).unwrap();
        fail(&mut core, "c1");
        assert!(launch(&mut core, "c2", 10).is_err());
    }

    #[test]
    fn without_a_pool_nobody_gets_any() {
        let fault = launch(&mut core(None), "c1", 1).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unsupported);
    }

    #[test]
    fn a_repeated_request_is_recognised_although_it_names_no_base() {
        let mut accepted = spec(10);
        accepted.userns = Some(UserNamespace {
            base: Some(100_000),
            count: 10,
        });
        assert!(same_request(&accepted, &spec(10)));
        assert!(!same_request(&accepted, &spec(11)));
        assert!(!same_request(&accepted, &LaunchSpec::default()));
    }
}
