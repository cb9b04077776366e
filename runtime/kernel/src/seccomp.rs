//! System call filters: rules compiled to classic BPF, and their installation. What to deny is the
//! caller's policy.
//!
//! ```text
//! load arch    wrong                → kill the process
//! load number  x32 or beyond        → ENOSYS
//! binary search over ranges of numbers with the same answer
//! leaf         return, or look at the low half of an argument and return
//! ```
//! A filter of n ranges runs log2(n) comparisons, and none for what it always allows: the kernel
//! evaluates it once per number at installation (Kernel: userspace-api/seccomp_filter.rst; the
//! bitmap since 5.11).

use crate::Errno;

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Fail(Errno),
}

/// A test of the low 32 bits of an argument: the kernel takes only these for the arguments that we
/// look at, so the high ones must not be able to hide anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    AnyBit(u32),
    Equals(u32),
}

/// When an argument passes the test, the verdict is this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    pub argument: u8,
    pub test: Test,
    pub verdict: Verdict,
}

/// What happens to one system call. The first check that holds decides, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub call: u32,
    pub checks: Vec<Check>,
    pub otherwise: Verdict,
}

impl Rule {
    pub fn always(call: libc::c_long, verdict: Verdict) -> Self {
        Self {
            call: call as u32,
            checks: Vec::new(),
            otherwise: verdict,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("system call {0} has two rules")]
    Twice(u32),
    #[error("a jump over {0} instructions is too long")]
    JumpTooLong(usize),
}

/// One instruction, `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u16,
    when_true: u8,
    when_false: u8,
    value: u32,
}

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Vec<Instruction>);

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// `AUDIT_ARCH_*`, linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Numbers from here on are the x32 table on x86-64, another way to the same calls; elsewhere nothing.
const FOREIGN_TABLE: u32 = 0x4000_0000;

fn plain(code: u16, value: u32) -> Instruction {
    Instruction {
        code,
        when_true: 0,
        when_false: 0,
        value,
    }
}

fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Fail(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
    }
}

/// What all numbers from `first` up to the next range have in common.
#[derive(Clone, PartialEq)]
struct Range<'a> {
    first: u32,
    checks: &'a [Check],
    otherwise: Verdict,
}

impl Filter {
    /// Calls without a rule are allowed.
    pub fn compile(rules: &[Rule]) -> Result<Self, CompileError> {
        let mut sorted: Vec<&Rule> = rules.iter().collect();
        sorted.sort_by_key(|rule| rule.call);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].call == pair[1].call) {
            return Err(CompileError::Twice(pair[0].call));
        }
        let ranges = ranges(&sorted);
        let mut program = vec![
            plain(LOAD, ARCHITECTURE_AT),
            Instruction {
                code: JUMP_EQUAL,
                when_true: 1,
                when_false: 0,
                value: ARCHITECTURE,
            },
            plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
            plain(LOAD, NUMBER_AT),
            Instruction {
                code: JUMP_AT_LEAST,
                when_true: 0,
                when_false: 1,
                value: FOREIGN_TABLE,
            },
            plain(RETURN, action(Verdict::Fail(Errno::ENOSYS))),
        ];
        search(&ranges, &mut program)?;
        Ok(Self(program))
    }

    pub fn instructions(&self) -> usize {
        self.0.len()
    }

    /// Puts the filter on this task and all it will make or execute. Needs no_new_privs.
    pub fn install(&self) -> Result<(), Errno> {
        let program = libc::sock_fprog {
            len: self.0.len() as libc::c_ushort,
            filter: self.0.as_ptr().cast_mut().cast(),
        };
        // SAFETY: Instruction has the layout of sock_filter; the kernel only reads the program.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        Errno::result(result).map(drop)
    }
}

fn ranges<'a>(sorted: &[&'a Rule]) -> Vec<Range<'a>> {
    let mut ranges = Vec::new();
    let mut push = |range: Range<'a>| match ranges.last() {
        Some(last) if same_answer(last, &range) => {}
        _ => ranges.push(range),
    };
    let mut next = 0;
    for rule in sorted {
        if rule.call > next {
            push(Range {
                first: next,
                checks: &[],
                otherwise: Verdict::Allow,
            });
        }
        push(Range {
            first: rule.call,
            checks: &rule.checks,
            otherwise: rule.otherwise,
        });
        next = rule.call + 1;
    }
    push(Range {
        first: next,
        checks: &[],
        otherwise: Verdict::Allow,
    });
    ranges
}

fn same_answer(left: &Range<'_>, right: &Range<'_>) -> bool {
    left.checks == right.checks && left.otherwise == right.otherwise
}

/// Emits the search tree of these ranges; the accumulator holds the number of the call.
fn search(ranges: &[Range<'_>], program: &mut Vec<Instruction>) -> Result<(), CompileError> {
    if let [leaf] = ranges {
        for check in leaf.checks {
            program.push(plain(LOAD, ARGUMENTS_AT + 8 * u32::from(check.argument)));
            let (code, value) = match check.test {
                Test::AnyBit(mask) => (JUMP_ANY_BIT, mask),
                Test::Equals(value) => (JUMP_EQUAL, value),
            };
            program.push(Instruction {
                code,
                when_true: 0,
                when_false: 1,
                value,
            });
            program.push(plain(RETURN, action(check.verdict)));
        }
        program.push(plain(RETURN, action(leaf.otherwise)));
        return Ok(());
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let jump = program.len();
    program.push(plain(JUMP_AT_LEAST, high[0].first));
    search(low, program)?;
    let distance = program.len() - jump - 1;
    program[jump].when_true = u8::try_from(distance).map_err(|_| CompileError::JumpTooLong(distance))?;
    search(high, program)
}

/// What the kernel would answer: for tests of policies, here and elsewhere.
pub mod evaluate {
    use super::{ARCHITECTURE, Filter, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, NUMBER_AT, RETURN};
    use super::{ARCHITECTURE_AT, ARGUMENTS_AT};

    /// The raw action for a call of this architecture.
    pub fn native(filter: &Filter, call: u32, arguments: [u64; 6]) -> Option<u32> {
        on(filter, ARCHITECTURE, call, arguments)
    }

    /// The raw action; `None` when the program runs off its end or does something unknown.
    pub fn on(filter: &Filter, architecture: u32, call: u32, arguments: [u64; 6]) -> Option<u32> {
        let mut accumulator = 0u32;
        let mut at = 0usize;
        loop {
            let step = filter.0.get(at)?;
            at += 1;
            let holds = match step.code {
                LOAD => {
                    accumulator = match step.value {
                        NUMBER_AT => call,
                        ARCHITECTURE_AT => architecture,
                        other => *arguments.get((other.checked_sub(ARGUMENTS_AT)? / 8) as usize)? as u32,
                    };
                    continue;
                }
                RETURN => return Some(step.value),
                JUMP_EQUAL => accumulator == step.value,
                JUMP_AT_LEAST => accumulator >= step.value,
                JUMP_ANY_BIT => accumulator & step.value != 0,
                _ => return None,
            };
            at += usize::from(if holds { step.when_true } else { step.when_false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: Verdict = Verdict::Fail(Errno::EPERM);

    #[test]
    fn every_number_gets_the_verdict_of_its_rule() {
        let mut rules: Vec<Rule> = [0, 1, 5, 6, 7, 100, 333]
            .map(|call| Rule::always(call, EPERM))
            .into();
        rules.push(Rule {
            call: 56,
            checks: vec![Check {
                argument: 0,
                test: Test::AnyBit(0x30),
                verdict: EPERM,
            }],
            otherwise: Verdict::Allow,
        });
        let filter = Filter::compile(&rules).unwrap();
        for call in 0..500 {
            let denied = [0, 1, 5, 6, 7, 100, 333].contains(&call);
            let expected = action(if denied { EPERM } else { Verdict::Allow });
            assert_eq!(evaluate::native(&filter, call, [0; 6]), Some(expected), "{call}");
        }
        let with_bit = [0xffff_ffff_0000_0010, 0, 0, 0, 0, 0];
        assert_eq!(evaluate::native(&filter, 56, with_bit), Some(action(EPERM)));
    }

    #[test]
    fn other_tables_are_no_way_around() {
        let filter = Filter::compile(&[Rule::always(5, EPERM)]).unwrap();
        let enosys = action(Verdict::Fail(Errno::ENOSYS));
        assert_eq!(evaluate::native(&filter, FOREIGN_TABLE | 1, [0; 6]), Some(enosys));
        let i386 = 0x4000_0003;
        let killed = libc::SECCOMP_RET_KILL_PROCESS;
        assert_eq!(evaluate::on(&filter, i386, 1, [0; 6]), Some(killed));
    }

    #[test]
    fn two_rules_for_one_call_are_refused() {
        let rules = [Rule::always(5, EPERM), Rule::always(5, Verdict::Allow)];
        assert_eq!(Filter::compile(&rules), Err(CompileError::Twice(5)));
    }
}
