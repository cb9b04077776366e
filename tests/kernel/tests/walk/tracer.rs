//! Stops a process at every system call it makes, counts them, and kills it at the one that was chosen.
//!
//! One thread does everything: who traces a process is a thread (ptrace(2)), and it is also the parent of all that it
//! starts, so that one `waitpid` tells everything and nobody else's `wait` takes it away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::calls;

/// Nothing for so long, and the traced process has nothing more to do.
const QUIET: Duration = Duration::from_millis(8);
/// One operation under a tracer on a loaded machine.
const PATIENCE: u64 = 40;

/// A place in the execution of the victim: before or after a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub number: u32,
    pub call: String,
    pub before: bool,
    pub thread: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = if self.before { "before" } else { "after" };
        write!(f, "{} ({side} {} in {})", self.number, self.call, self.thread)
    }
}

/// Whose system calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// All threads of this process.
    Process(Pid),
    /// The next child that this process makes; it itself runs on undisturbed.
    ChildOf(Pid),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Victim,
    Bystander,
}

pub struct Tracer {
    victim: Victim,
    /// Known once the child of `Victim::ChildOf` is born.
    process: Option<Pid>,
    threads: HashMap<Pid, Role>,
    /// Processes that ended while we waited, for those who started them.
    ended: HashMap<i32, WaitStatus>,
    counted: u32,
    target: u32,
    /// Counting starts with the program: what a wrapper does before is not the victim's.
    counting: bool,
    /// Where the victim was killed.
    pub killed: Option<Place>,
    /// Nobody is followed any more.
    over: bool,
}

impl Tracer {
    /// Takes hold of a running victim; `target` is the stop at which it is killed, beginning with 1.
    pub fn attach(victim: Victim, target: u32) -> Self {
        let (process, options) = match victim {
            Victim::Process(pid) => (pid, Options::PTRACE_O_TRACECLONE),
            Victim::ChildOf(pid) => (
                pid,
                Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK,
            ),
        };
        let mut tracer = Self {
            victim,
            process: matches!(victim, Victim::Process(_)).then_some(process),
            threads: HashMap::new(),
            ended: HashMap::new(),
            counted: 0,
            target,
            counting: true,
            killed: None,
            over: false,
        };
        for thread in threads_of(process) {
            ptrace::seize(thread, options | Options::PTRACE_O_TRACESYSGOOD).expect("seize a thread");
            tracer.threads.insert(thread, tracer.role());
            // Out of what it waits in, so that it goes on from stop to stop.
            ptrace::interrupt(thread).expect("interrupt a thread");
        }
        tracer
    }

    /// Takes hold of a process that waits to execute the victim's program.
    pub fn attach_before_exec(process: Pid, target: u32) -> Self {
        let mut tracer = Self {
            victim: Victim::Process(process),
            process: Some(process),
            threads: HashMap::from([(process, Role::Victim)]),
            ended: HashMap::new(),
            counted: 0,
            target,
            counting: false,
            killed: None,
            over: false,
        };
        let options =
            Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXEC;
        ptrace::seize(process, options).expect("seize the process");
        ptrace::interrupt(process).expect("interrupt the process");
        tracer.threads.insert(process, Role::Victim);
        tracer
    }

    fn role(&self) -> Role {
        match self.victim {
            Victim::Process(_) => Role::Victim,
            Victim::ChildOf(_) => Role::Bystander,
        }
    }

    pub fn counted(&self) -> u32 {
        self.counted
    }

    /// How a process that we started ended, if it did while we waited.
    pub fn ended(&self, pid: i32) -> Option<WaitStatus> {
        self.ended.get(&pid).copied()
    }

    /// Follows the victim until it has been killed, or has ended, or is quiet and `done` holds. False: it was neither
    /// within any reasonable time.
    pub fn follow(&mut self, mut done: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + support::patience(PATIENCE);
        let mut last = Instant::now();
        let mut idle = 0u32;
        loop {
            if self.step() {
                last = Instant::now();
                idle = 0;
            } else {
                idle += 1;
                wait_a_moment(idle);
            }
            if self.process.is_some_and(|p| self.ended.contains_key(&p.as_raw())) {
                return true;
            }
            if self.killed.is_none() && last.elapsed() > QUIET && done(self) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
        }
    }

    /// Waits until a killed victim is gone with all its threads. One that was not killed is, or is let go of.
    pub fn finish(mut self, kill_it: bool) -> HashMap<i32, WaitStatus> {
        if self.killed.is_none() && !kill_it {
            self.let_go();
            return self.ended;
        }
        if let Some(process) = self.process
            && !self.ended.contains_key(&process.as_raw())
        {
            let _ = kill(process, Signal::SIGKILL);
        }
        let deadline = Instant::now() + support::patience(PATIENCE);
        let mut idle = 0;
        let gone = |tracer: &Self| {
            tracer
                .process
                .is_none_or(|p| tracer.ended.contains_key(&p.as_raw()))
        };
        while !gone(&self) {
            assert!(Instant::now() < deadline, "the victim does not end");
            if self.step() {
                idle = 0;
            } else {
                idle += 1;
                wait_a_moment(idle);
            }
        }
        self.let_go();
        self.ended
    }

    /// Detaches from what is still alive: it has to be stopped for that.
    fn let_go(&mut self) {
        self.over = true;
        let left: Vec<Pid> = self.threads.keys().copied().collect();
        for thread in left {
            let _ = ptrace::interrupt(thread);
            let deadline = Instant::now() + support::patience(PATIENCE);
            loop {
                match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_micros(50)),
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => break,
                    Ok(_) => {
                        let _ = ptrace::detach(thread, None);
                        break;
                    }
                }
                assert!(Instant::now() < deadline, "{thread} can not be let go of");
            }
            self.threads.remove(&thread);
        }
        // Whoever the victim cloned last is attached by the kernel, stopped, and perhaps not heard of yet: left like that,
        // it would stay stopped for as long as this thread lives.
        let deadline = Instant::now() + support::patience(PATIENCE);
        while has_tracees() {
            assert!(Instant::now() < deadline, "a tracee does not stop");
            if !self.step() {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// One event, if there is one.
    fn step(&mut self) -> bool {
        match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => false,
            Ok(status) => {
                self.handle(status);
                true
            }
            Err(error) => panic!("wait for any child: {error}"),
        }
    }

    fn handle(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::PtraceSyscall(thread) if self.over => self.go_on(thread, None),
            WaitStatus::PtraceSyscall(thread) => self.system_call(thread),
            WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_STOP) => {
                self.adopt(thread);
                self.go_on(thread, None);
            }
            WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_EXEC) => {
                self.counting = true;
                self.go_on(thread, None);
            }
            WaitStatus::PtraceEvent(thread, ..) => self.go_on(thread, None),
            WaitStatus::Stopped(thread, signal) => {
                self.adopt(thread);
                self.go_on(thread, Some(signal));
            }
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                self.threads.remove(&pid);
                self.ended.insert(pid.as_raw(), status);
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
    }

    /// A thread or child that the kernel attached for us, and which may be heard of before its maker's own event.
    fn adopt(&mut self, thread: Pid) {
        if self.threads.contains_key(&thread) {
            return;
        }
        let role = match self.victim {
            Victim::Process(process) if group_of(thread) == Some(process) => Role::Victim,
            // The first child; a second one is a grandchild or another launch, and runs free.
            Victim::ChildOf(_) if self.process.is_none() => {
                self.process = Some(thread);
                Role::Victim
            }
            _ => Role::Bystander,
        };
        self.threads.insert(thread, role);
    }

    fn go_on(&mut self, thread: Pid, signal: Option<Signal>) {
        // It may have been killed meanwhile; its end is told next.
        let _ = match (self.threads.get(&thread), self.victim) {
            _ if self.over => ptrace::detach(thread, signal),
            (Some(Role::Victim), _) => ptrace::syscall(thread, signal),
            // The launcher of a traced agent: a process of its own.
            (_, Victim::Process(_)) => {
                self.threads.remove(&thread);
                ptrace::detach(thread, signal)
            }
            (_, Victim::ChildOf(maker)) if maker != thread => {
                self.threads.remove(&thread);
                ptrace::detach(thread, signal)
            }
            (_, Victim::ChildOf(_)) => ptrace::cont(thread, signal),
        };
    }

    fn system_call(&mut self, thread: Pid) {
        let (Ok(info), Ok(registers)) = (ptrace::syscall_info(thread), ptrace::getregs(thread)) else {
            return;
        };
        let number = registers.orig_rax as i64;
        if self.counting && self.killed.is_none() && !calls::is_noise(number) {
            self.counted += 1;
            if self.counted == self.target {
                let place = Place {
                    number: self.counted,
                    call: calls::name(number),
                    before: info.op == libc::PTRACE_SYSCALL_INFO_ENTRY,
                    thread: name_of(thread),
                };
                self.killed = Some(place);
                if let Some(process) = self.process {
                    kill(process, Signal::SIGKILL).expect("kill the victim");
                }
                // Left in its stop: a call that was not begun is not made any more (ptrace(2)).
                return;
            }
        }
        self.go_on(thread, None);
    }
}

/// Short at first, since an event follows the other within microseconds; long enough to leave the processor to those
/// who have something to do.
fn wait_a_moment(idle: u32) {
    match idle {
        0..20 => std::thread::yield_now(),
        20..200 => std::thread::sleep(Duration::from_micros(20)),
        _ => std::thread::sleep(Duration::from_micros(500)),
    }
}

fn threads_of(process: Pid) -> Vec<Pid> {
    std::fs::read_dir(format!("/proc/{process}/task"))
        .expect("the victim lives")
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// Whether this thread traces anyone.
fn has_tracees() -> bool {
    let own = format!("TracerPid:\t{}\n", nix::unistd::gettid());
    std::fs::read_dir("/proc")
        .expect("a list of processes")
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .any(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            status.contains(&own)
        })
}

fn group_of(thread: Pid) -> Option<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

fn name_of(thread: Pid) -> String {
    let text = std::fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    text.trim().to_owned()
}
