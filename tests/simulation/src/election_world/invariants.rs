//! What must hold.

use model::Term;

use super::{Machine, PlantedBug, Process, STALE_MAX, Violation, World};

impl World {
    pub(super) fn check(&self) -> Result<(), Violation> {
        let mut acting: Vec<(usize, Term)> = self.acting();
        acting.retain(|(_, term)| !self.removed.contains(term));
        if acting.len() > 1 {
            return Err(self.violation(format!("two may act as leaders at one moment: {acting:?}")));
        }
        if let [.., (_, before), (_, last)] = self.elected[..]
            && last <= before
            && !self.removed.contains(&last)
        {
            return Err(self.violation(format!("term {last} after term {before}")));
        }
        for (number, process) in self
            .processes
            .iter()
            .enumerate()
            .filter(|(_, process)| !process.frozen)
        {
            let Some(known) = process.term() else { continue };
            let followed = self.elected.iter().find(|(_, term)| *term > known);
            if let Some((at, term)) = followed
                && self.now > at + STALE_MAX
                && self.now > process.awake_since + STALE_MAX
            {
                return Err(self.violation(format!("{number} knows {known}, {term} was elected at {at}")));
            }
        }
        Ok(())
    }

    /// Who may act, were it to run now. A frozen process may wake up at any moment.
    fn acting(&self) -> Vec<(usize, Term)> {
        let may = |process: &Process| match &process.machine {
            Machine::Master(election) => {
                let looks = self.bug != Some(PlantedBug::ActsBeforeLooking);
                let (term, fence) = election.tenure()?;
                (!looks || process.clock(self.now) < fence).then_some(term)
            }
            Machine::Agent(_) => None,
        };
        let all = self.processes.iter().enumerate();
        all.filter_map(|(number, process)| Some((number, may(process)?)))
            .collect()
    }

    /// One leader, known to all.
    pub(super) fn check_end(&self) -> Result<(), Violation> {
        let acting = self.acting();
        let [(_, term)] = acting[..] else {
            return Err(self.violation(format!("it has long been quiet, and these lead: {acting:?}")));
        };
        for (number, process) in self.processes.iter().enumerate() {
            let knows = process.term();
            if matches!(process.machine, Machine::Agent(_)) && knows != Some(term) {
                return Err(self.violation(format!(
                    "it has long been quiet, and {number} knows {knows:?}, not {term}"
                )));
            }
        }
        Ok(())
    }

    fn violation(&self, message: String) -> Violation {
        Violation {
            seed: self.seed,
            at_ms: self.now,
            message,
        }
    }
}
