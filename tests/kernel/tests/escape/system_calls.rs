//! The kernel's surface: which calls a container can make at all. The list of those that are denied whatever their
//! arguments is kept in `denied.txt`; a change of the policy changes that file, and is seen.

use std::fmt::Write as _;

use crate::arena::Arena;

/// Beyond the last number that any kernel so far knows.
const NUMBERS: std::ops::Range<u32> = 0..600;
const ALLOW: u32 = 0x7fff_0000;

#[test]
fn the_denied_calls_are_those_of_the_list() {
    let filter = container::profile::default_filter().expect("it compiles");
    let mut now = String::new();
    for number in NUMBERS {
        let answer = kernel::seccomp::evaluate::native(&filter, number, [0; 6]).expect("an answer");
        if answer != ALLOW {
            writeln!(now, "{number} {answer:#x}").expect("a text");
        }
    }
    let golden = include_str!("denied.txt");
    let wanted: String = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| {
            let mut words = line.split_whitespace();
            [words.next().unwrap_or(""), " ", words.next().unwrap_or(""), "\n"]
        })
        .collect();
    assert_eq!(now, wanted, "the policy and denied.txt differ");
}

/// The same, by the kernel: each listed call is made, with arguments that would do no harm.
#[test]
fn the_denied_calls_are_denied() {
    let Some(arena) = Arena::new() else { return };
    let mut attack = String::new();
    for line in include_str!("denied.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        let number = words.next().expect("a number");
        let answer = words
            .next()
            .and_then(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        let errno = answer.expect("an answer") & 0xffff;
        writeln!(
            attack,
            "ctypes.set_errno(0)\nif libc.syscall({number}, -1, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != {errno}: \
             print('DONE call {number}', ctypes.get_errno())"
        )
        .expect("a text");
    }
    arena.attack(&[], &attack);
}

#[test]
fn what_depends_on_arguments_is_denied_too() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
for flag in [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80]:
    attempt('unshare %x' % flag, lambda: call(272, flag))
    if flag != 0x80: attempt('clone %x' % flag, lambda: call(56, flag | 17, 0, 0, 0, 0) or os._exit(0))
arguments = struct.pack('QQQQQQQQ', 0x10000000, 0, 0, 0, 17, 0, 0, 0)
attempt('clone3', lambda: call(435, arguments, 64) or os._exit(0))
for family in [38, 40]: attempt('socket %d' % family, lambda: socket.socket(family, socket.SOCK_STREAM))
attempt('project id', lambda: fcntl.ioctl(os.open('.', os.O_RDONLY), 0x401c5820, b'\\0' * 28))
attempt('personality', lambda: call(135, 0x0400000))
attempt('x32', lambda: call(0x40000000 + 165, 0, 0, 0, 0, 0))
";
    arena.attack_everywhere(&[], attack);
}

/// The 32-bit table has other numbers: whoever enters it is ended.
#[test]
fn the_other_table_of_system_calls_is_closed() {
    let Some(arena) = Arena::new() else { return };
    // mov eax, 20 (getpid of i386); int 0x80; ret
    let attack = "
import mmap
pid = os.fork()
if pid == 0:
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
_, status = os.waitpid(pid, 0)
if not os.WIFSIGNALED(status): print('DONE entered it', status)
";
    arena.attack(&[], attack);
}
