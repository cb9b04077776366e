//! The default system call policy: a deny list of the kernel's attack surface.
//!
//! A list of what is denied, not of what is allowed: a program built against a newer C library must
//! keep working. Denied is what only administrators of a host need, what has been a way out of
//! containers, and what no namespace confines. The list holds whatever capabilities are added; who
//! needs more runs with `--seccomp unconfined`.

use kernel::Errno;
use kernel::seccomp::{Check, CompileError, Filter, Rule, Test, Verdict};
use kernel::syscall_numbers as call;

const DENY: Verdict = Verdict::Fail(Errno::EPERM);

/// The rules, in no order.
pub fn default_rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = call::DENIED
        .iter()
        .map(|number| Rule::always(*number, DENY))
        .collect();
    let check = |argument, test| Check {
        argument,
        test,
        verdict: DENY,
    };
    // No new namespaces: a user namespace gives its maker all capabilities inside, and with them most
    // of the kernel's attack surface.
    let namespaces = Test::AnyBit(call::NEW_NAMESPACES);
    rules.push(Rule {
        call: call::CLONE,
        checks: vec![check(0, namespaces)],
        otherwise: Verdict::Allow,
    });
    let unshared = Test::AnyBit(call::NEW_NAMESPACES | call::NEW_TIME_NAMESPACE);
    rules.push(Rule {
        call: call::UNSHARE,
        checks: vec![check(0, unshared)],
        otherwise: Verdict::Allow,
    });
    // Its flags lie in memory where a filter can not look; the C library falls back to clone.
    rules.push(Rule::always(call::CLONE3 as _, Verdict::Fail(Errno::ENOSYS)));
    // Typing into the terminal that somebody outside reads (CVE-2016-2568 and its kin); leaving a disk quota.
    let [first, second] = call::TERMINAL_INJECTIONS;
    let requests = [first, second, call::SET_PROJECT_ID];
    rules.push(Rule {
        call: call::IOCTL,
        checks: requests.map(|request| check(1, Test::Equals(request))).into(),
        otherwise: Verdict::Allow,
    });
    // Other execution domains map page 0 or switch off address randomisation of set-user-id programs.
    let domains = call::PERSONALITIES_ALLOWED.map(|domain| Check {
        argument: 0,
        test: Test::Equals(domain),
        verdict: Verdict::Allow,
    });
    rules.push(Rule {
        call: call::PERSONALITY,
        checks: domains.into(),
        otherwise: DENY,
    });
    // Kernel crypto is reachable without it; the hypervisor's socket is nobody's business here.
    let families = call::FAMILIES_DENIED.map(|family| Check {
        argument: 0,
        test: Test::Equals(family),
        verdict: Verdict::Fail(Errno::EAFNOSUPPORT),
    });
    for number in [call::SOCKET, call::SOCKETPAIR] {
        rules.push(Rule {
            call: number,
            checks: families.to_vec(),
            otherwise: Verdict::Allow,
        });
    }
    rules
}

pub fn default_filter() -> Result<Filter, CompileError> {
    Filter::compile(&default_rules())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::seccomp::evaluate;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    fn answer(number: u32, arguments: [u64; 6]) -> u32 {
        evaluate::native(&default_filter().unwrap(), number, arguments).unwrap()
    }

    #[test]
    fn every_denied_call_fails_and_ordinary_ones_pass() {
        for number in call::DENIED {
            assert_eq!(answer(*number as u32, [0; 6]), EPERM, "{number}");
        }
        let denied = (0..=470)
            .filter(|number| answer(*number, [0; 6]) != ALLOW)
            .count();
        // The list, and clone3.
        assert_eq!(denied, call::DENIED.len() + 1);
    }

    #[test]
    fn namespaces_are_denied_in_every_flag_and_threads_are_not() {
        let pthread = 0x003d_0f00;
        assert_eq!(answer(call::CLONE, [pthread, 0, 0, 0, 0, 0]), ALLOW);
        for bit in [
            0x2_0000u64,
            0x200_0000,
            0x400_0000,
            0x800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
        ] {
            assert_eq!(
                answer(call::CLONE, [pthread | bit, 0, 0, 0, 0, 0]),
                EPERM,
                "{bit:x}"
            );
            assert_eq!(answer(call::UNSHARE, [bit, 0, 0, 0, 0, 0]), EPERM, "{bit:x}");
        }
        assert_eq!(answer(call::UNSHARE, [0x80, 0, 0, 0, 0, 0]), EPERM);
        // unshare(CLONE_FILES)
        assert_eq!(answer(call::UNSHARE, [0x400, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(answer(call::CLONE3, [0; 6]), 0x0005_0026);
    }

    #[test]
    fn high_halves_of_arguments_hide_nothing() {
        let high = 0xdead_beef_0000_0000;
        assert_eq!(answer(call::IOCTL, [0, high | 0x5412, 0, 0, 0, 0]), EPERM);
        assert_eq!(answer(call::IOCTL, [0, 0x5413, 0, 0, 0, 0]), ALLOW);
        assert_eq!(answer(call::PERSONALITY, [0xffff_ffff, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(answer(call::PERSONALITY, [0x0040_0000, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(answer(call::SOCKET, [38, 5, 0, 0, 0, 0]), 0x0005_0061);
        assert_eq!(answer(call::SOCKET, [2, 1, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn the_filter_stays_small() {
        // Compiled anew by the kernel at every launch.
        let filter = default_filter().unwrap();
        assert!(filter.instructions() < 256, "{}", filter.instructions());
    }
}
