//! Ids for user-namespaced containers: whether the configured ones are free on this host.
//!
//! An id range that `/etc/subuid` or `/etc/subgid` delegates is no good: whoever holds it may map it into a user
//! namespace of his own (newuidmap(1)) and is then root over every container that has ids of it.

use std::path::Path;

use model::{Fault, IdRange, IsolatorReport};

/// Files that give ranges of ids to users of the host: `name:first:count` a line, subuid(5).
const DELEGATIONS: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// Accounts and groups, the id in the third field: passwd(5), group(5).
const ACCOUNTS: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// The pool, or why it can't be used.
#[derive(Debug, Clone)]
pub struct IdPool {
    configured: IdRange,
    obstacle: Option<String>,
}

impl IdPool {
    /// Reads the host's files.
    pub fn look(configured: IdRange) -> Self {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        let found = DELEGATIONS
            .iter()
            .find_map(|path| delegated(&read(path), configured).map(|line| (*path, line.to_owned())))
            .or_else(|| {
                ACCOUNTS.iter().find_map(|path| {
                    account_within(&read(path), configured).map(|name| (*path, name.to_owned()))
                })
            });
        let obstacle = found.map(|(path, line)| format!("{path} has {line:?}, in the pool {configured}"));
        Self { configured, obstacle }
    }

    pub fn usable(&self) -> Option<IdRange> {
        self.obstacle.is_none().then_some(self.configured)
    }

    /// The pool, or the refusal of a launch that asks for ids.
    pub fn require(&self) -> Result<IdRange, Fault> {
        match &self.obstacle {
            None => Ok(self.configured),
            Some(obstacle) => {
                let message = format!("the ids for containers are somebody else's: {obstacle}");
                Err(Fault::unsupported("userns", message)
                    .remedy("give the agent a --userns-range that nobody has, and restart it"))
            }
        }
    }

    /// Completes what the isolators say of user namespaces.
    pub fn complete(&self, report: &mut IsolatorReport) {
        if report.name != isolators::USER_NAMESPACES || !report.active {
            return;
        }
        match &self.obstacle {
            None => report.mechanism = format!("{}; pool of ids {}", report.mechanism, self.configured),
            Some(obstacle) => {
                report.active = false;
                report.missing = obstacle.clone();
            }
        }
    }
}

/// The first line that delegates some of these ids. Lines that make no sense to newuidmap either are passed over.
fn delegated(text: &str, pool: IdRange) -> Option<&str> {
    text.lines().find(|line| {
        let mut numbers = line.split(':').skip(1).map(|field| field.trim().parse::<u32>());
        match (numbers.next(), numbers.next()) {
            (Some(Ok(base)), Some(Ok(count))) => IdRange { base, count }.overlaps(pool),
            _ => false,
        }
    })
}

fn account_within(text: &str, pool: IdRange) -> Option<&str> {
    let within = |line: &&str| {
        let id = line.split(':').nth(2).and_then(|field| field.parse::<u32>().ok());
        id.is_some_and(|id| IdRange { base: id, count: 1 }.overlaps(pool))
    };
    // The name is enough: the rest of the line is nobody's business.
    text.lines()
        .find(within)
        .map(|line| line.split(':').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delegated_ids_are_found() {
        let pool: IdRange = "200000:65536".parse().unwrap();
        let file = "# comment\nalice:100000:65536\nbroken\nbob:265535:1\n";
        assert_eq!(delegated(file, pool), Some("bob:265535:1"));
        assert_eq!(delegated("alice:100000:100000\n", pool), None);
        assert_eq!(
            delegated("alice:100000:100001\n", pool),
            Some("alice:100000:100001")
        );
        assert_eq!(delegated("alice:265536:5\nalice:200000:0\n", pool), None);
        assert_eq!(
            account_within("root:x:0:0::/:/bin/sh\nldap:x:200001:5::/:/bin/sh\n", pool),
            Some("ldap")
        );
    }

    #[test]
    fn ids_of_somebody_else_are_refused_with_the_file_named() {
        let pool = IdPool {
            configured: "200000:65536".parse().unwrap(),
            obstacle: Some("/etc/subuid has \"x\"".into()),
        };
        assert!(pool.usable().is_none());
        let fault = pool.require().unwrap_err();
        assert!(fault.to_string().contains("/etc/subuid"), "{fault}");
        let mut report = IsolatorReport {
            name: isolators::USER_NAMESPACES.to_owned(),
            active: true,
            mechanism: "x".into(),
            missing: String::new(),
        };
        pool.complete(&mut report);
        assert!(!report.active && report.missing.contains("/etc/subuid"));
    }
}
