//! One BPF instruction and those that our programs are made of. Kernel: bpf/standardization/instruction-set.rst.

/// As the kernel reads it: 8 bytes, registers packed in one of them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8);

/// r0: result; r1: the context on entry; r2 to r5: free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
}

const LDX_MEM_W: u8 = 0x61;
const ALU64_MOV_X: u8 = 0xbf;
const ALU64_MOV_K: u8 = 0xb7;
const ALU64_AND_K: u8 = 0x57;
const ALU64_RSH_K: u8 = 0x77;
const JMP_JNE_K: u8 = 0x55;
/// A comparison of the low 32 bits: device numbers are unsigned 32 bit, an immediate is sign-extended.
const JMP32_JNE_K: u8 = 0x56;
const EXIT: u8 = 0x95;

impl Instruction {
    const fn new(code: u8, destination: Register, source: Register, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: destination as u8 | (source as u8) << 4,
            offset,
            immediate,
        }
    }

    /// `destination = *(u32 *)(source + offset)`
    pub const fn load_word(destination: Register, source: Register, offset: i16) -> Self {
        Self::new(LDX_MEM_W, destination, source, offset, 0)
    }

    pub const fn copy(destination: Register, source: Register) -> Self {
        Self::new(ALU64_MOV_X, destination, source, 0, 0)
    }

    pub const fn set(destination: Register, value: i32) -> Self {
        Self::new(ALU64_MOV_K, destination, Register::R0, 0, value)
    }

    pub const fn and(destination: Register, mask: i32) -> Self {
        Self::new(ALU64_AND_K, destination, Register::R0, 0, mask)
    }

    pub const fn shift_right(destination: Register, bits: i32) -> Self {
        Self::new(ALU64_RSH_K, destination, Register::R0, 0, bits)
    }

    /// Skips `over` instructions if the register is not `value`.
    pub const fn jump_if_not(register: Register, value: i32, over: i16) -> Self {
        Self::new(JMP_JNE_K, register, Register::R0, over, value)
    }

    /// As [`Self::jump_if_not`], comparing 32 bits.
    pub const fn jump_if_not_word(register: Register, value: u32, over: i16) -> Self {
        Self::new(JMP32_JNE_K, register, Register::R0, over, value as i32)
    }

    pub const fn exit() -> Self {
        Self::new(EXIT, Register::R0, Register::R0, 0, 0)
    }
}

/// Runs a program of this vocabulary over a context of words: what the kernel would answer, for tests.
#[cfg(test)]
pub fn interpret(program: &[Instruction], context: &[u32]) -> u64 {
    let mut registers = [0u64; 16];
    let mut at = 0usize;
    loop {
        let instruction = program[at];
        let destination = usize::from(instruction.registers & 0xf);
        let source = usize::from(instruction.registers >> 4);
        let immediate = i64::from(instruction.immediate) as u64;
        at += 1;
        match instruction.code {
            LDX_MEM_W => registers[destination] = u64::from(context[instruction.offset as usize / 4]),
            ALU64_MOV_X => registers[destination] = registers[source],
            ALU64_MOV_K => registers[destination] = immediate,
            ALU64_AND_K => registers[destination] &= immediate,
            ALU64_RSH_K => registers[destination] >>= immediate,
            JMP_JNE_K if registers[destination] != immediate => at += instruction.offset as usize,
            JMP32_JNE_K if registers[destination] as u32 != instruction.immediate as u32 => {
                at += instruction.offset as usize;
            }
            JMP_JNE_K | JMP32_JNE_K => {}
            EXIT => return registers[0],
            code => panic!("no such instruction: {code:#x}"),
        }
    }
}
