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
    // Typing into the terminal that somebody outside reads (CVE-2016-2568 and its kin).
    let typing = call::TERMINAL_INJECTIONS.map(|request| check(1, Test::Equals(request)));
    rules.push(Rule {
        call: call::IOCTL,
        checks: typing.into(),
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
