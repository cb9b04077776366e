//! What a world of agents asks about user-namespaced containers: that no two have an id in common.

use model::{ContainerId, IdRange, LaunchSpec, UserNamespace};

use crate::random::Random;

/// Few enough to be used up now and then.
pub const POOL: IdRange = IdRange {
    base: 100_000,
    count: 50,
};

/// What a launch asks for.
pub fn draw(random: &mut Random) -> Option<UserNamespace> {
    random
        .one_in(2)
        .then(|| UserNamespace::of(1 + random.below(12) as u32))
}

/// The first two that have ids in common, or one that was never given any.
pub fn conflict<'a>(living: impl Iterator<Item = (&'a ContainerId, &'a LaunchSpec)>) -> Option<String> {
    let mut seen: Vec<(&ContainerId, IdRange)> = Vec::new();
    for (id, spec) in living {
        let Some(asked) = spec.userns else { continue };
        let Some(range) = asked.range() else {
            return Some(format!("{id} lives without the ids that it asked for"));
        };
        if range.base < POOL.base || range.end() > POOL.end() {
            return Some(format!("{id} has ids {range} that are not in the pool"));
        }
        if let Some((other, _)) = seen.iter().find(|(_, other)| other.overlaps(range)) {
            return Some(format!("{id} and {other} have ids of {range} in common"));
        }
        seen.push((id, range));
    }
    None
}
