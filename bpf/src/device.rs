//! The device program: which nodes may be made, read and written by the processes of a group.
//!
//! The kernel runs it at every open(2) and mknod(2) of a device node with
//! `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, the access in the high half of
//! the first word and the kind of node in the low one; 1 allows, 0 is EPERM.
//! Kernel: include/uapi/linux/bpf.h; admin-guide/cgroup-v2.rst, "Device controller".

use crate::instruction::{Instruction, Register};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    Block,
    Character,
}

/// One thing that is allowed; all else is not. `None` stands for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: NodeKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;

/// More rules than this are a mistake; it keeps the program far below the kernel's 4096 instructions for
/// old verifiers (9 instructions a rule at most).
pub const RULES_MAX: usize = 256;

impl DeviceRule {
    fn access(&self) -> i32 {
        let bit = |allowed, bit| if allowed { bit } else { 0 };
        bit(self.read, ACCESS_READ) | bit(self.write, ACCESS_WRITE) | bit(self.mknod, ACCESS_MKNOD)
    }

    /// `if kind, access, major and minor fit: return 1`; falls through otherwise.
    fn block(&self) -> Vec<Instruction> {
        use Register::{R0, R1, R2, R3, R4, R5};
        // The tests that lead to "allow", each jumping behind it; the length is known at the end.
        enum Test {
            Kind(i32),
            Access(i32),
            Major(u32),
            Minor(u32),
        }
        let kind = match self.kind {
            NodeKind::Block => KIND_BLOCK,
            NodeKind::Character => KIND_CHARACTER,
        };
        let mut tests = vec![Test::Kind(kind)];
        let refused = ACCESS_ALL & !self.access();
        if refused != 0 {
            tests.push(Test::Access(refused));
        }
        tests.extend(self.major.map(Test::Major));
        tests.extend(self.minor.map(Test::Minor));

        let length = |test: &Test| if matches!(test, Test::Access(_)) { 3 } else { 1 };
        let mut left: i16 = tests.iter().map(length).sum::<i16>() + 2;
        let mut block = Vec::with_capacity(8);
        for test in &tests {
            left -= length(test);
            match *test {
                Test::Kind(kind) => block.push(Instruction::jump_if_not(R2, kind, left)),
                Test::Access(refused) => block.extend([
                    Instruction::copy(R1, R3),
                    Instruction::and(R1, refused),
                    Instruction::jump_if_not(R1, 0, left),
                ]),
                Test::Major(major) => block.push(Instruction::jump_if_not_word(R4, major, left)),
                Test::Minor(minor) => block.push(Instruction::jump_if_not_word(R5, minor, left)),
            }
        }
        block.extend([Instruction::set(R0, 1), Instruction::exit()]);
        block
    }
}

/// The whole program: the rules in order, then refusal.
pub fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    use Register::{R0, R1, R2, R3, R4, R5};
    let mut program = vec![
        Instruction::load_word(R2, R1, 0),
        Instruction::copy(R3, R2),
        Instruction::and(R2, 0xffff),
        Instruction::shift_right(R3, 16),
        Instruction::load_word(R4, R1, 4),
        Instruction::load_word(R5, R1, 8),
    ];
    for rule in rules {
        program.extend(rule.block());
    }
    program.extend([Instruction::set(R0, 0), Instruction::exit()]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruction::interpret;

    fn rule(kind: NodeKind, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        let has = |letter| access.contains(letter);
        DeviceRule {
            kind,
            major,
            minor,
            read: has('r'),
            write: has('w'),
            mknod: has('m'),
        }
    }

    fn asks(rules: &[DeviceRule], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        interpret(&program(rules), &[(access << 16 | kind) as u32, major, minor]) == 1
    }

    /// What the program must answer, said the plain way.
    fn allowed(rules: &[DeviceRule], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        rules.iter().any(|rule| {
            let is = if rule.kind == NodeKind::Block {
                KIND_BLOCK
            } else {
                KIND_CHARACTER
            };
            is == kind
                && access & !rule.access() == 0
                && rule.major.is_none_or(|m| m == major)
                && rule.minor.is_none_or(|m| m == minor)
        })
    }

    #[test]
    fn program_and_rules_agree_on_every_question() {
        let rules = [
            rule(NodeKind::Character, None, None, "m"),
            rule(NodeKind::Character, Some(1), Some(3), "rwm"),
            rule(NodeKind::Character, Some(136), None, "rw"),
            rule(NodeKind::Block, Some(8), Some(u32::MAX), "r"),
            rule(NodeKind::Block, None, Some(7), "w"),
        ];
        for kind in [KIND_BLOCK, KIND_CHARACTER] {
            for access in 0..=ACCESS_ALL {
                for major in [0, 1, 8, 136, u32::MAX] {
                    for minor in [0, 3, 7, u32::MAX] {
                        for count in 0..=rules.len() {
                            let rules = &rules[..count];
                            assert_eq!(
                                asks(rules, kind, access, major, minor),
                                allowed(rules, kind, access, major, minor),
                                "{kind} {access} {major}:{minor} with {count} rules"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn no_rule_means_nothing_is_allowed() {
        assert!(!asks(&[], KIND_CHARACTER, ACCESS_READ, 1, 3));
    }

    #[test]
    fn the_longest_program_is_small_enough() {
        let one = rule(NodeKind::Block, Some(8), Some(1), "r");
        assert!(program(&vec![one; RULES_MAX]).len() < 4096);
    }
}
