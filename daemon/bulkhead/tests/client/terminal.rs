//! The client on a terminal: it becomes raw, sizes and keys pass through, and it is as it was afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use std::os::fd::AsFd;

use crate::{World, send, text, wait};

/// A terminal and the person before it.
struct Terminal {
    person: File,
    line: OwnedFd,
    before: Termios,
    seen: String,
}

impl Terminal {
    fn new(rows: u16, columns: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        Self {
            person: pty.master.into(),
            line: pty.slave,
            before,
            seen: String::new(),
        }
    }

    fn start(&self, world: &World, args: &[&str]) -> Child {
        let line = || Stdio::from(self.line.try_clone().unwrap());
        let mut command = world.bulkhead(args);
        command
            .stdin(line())
            .stdout(line())
            .stderr(line())
            .env("TERM", "xterm-256color")
            .spawn()
            .unwrap()
    }

    fn read_until(&mut self, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.seen.contains(wanted) {
            assert!(Instant::now() < deadline, "no {wanted:?} in {:?}", self.seen);
            let mut wait = [PollFd::new(self.person.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wait, PollTimeout::from(100_u8)).unwrap() > 0 {
                let mut piece = [0; 4096];
                let length = self.person.read(&mut piece).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.person.write_all(keys).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.line)
            .unwrap()
            .local_flags
            .contains(LocalFlags::ICANON)
    }

    fn until_raw(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.is_raw() {
            assert!(Instant::now() < deadline, "the terminal does not become raw");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn assert_restored(&self) {
        assert_eq!(tcgetattr(&self.line).unwrap(), self.before);
    }
}

#[test]
fn size_keys_and_status_pass_through_a_terminal() {
    let world = World::new();
    let mut terminal = Terminal::new(40, 100);
    let child = terminal.start(
        &world,
        &[
            "run",
            "-t",
            "--",
            "sh",
            "-c",
            "stty size; read x; echo got:$x; exit 4",
        ],
    );
    terminal.read_until("40 100");
    assert!(terminal.is_raw());
    terminal.press(b"hi\r");
    terminal.read_until("got:hi");
    assert_eq!(wait(child).code(), Some(4));
    terminal.assert_restored();
}

#[test]
fn detach_keys_leave_it_running() {
    let world = World::new();
    let mut terminal = Terminal::new(24, 80);
    let child = terminal.start(&world, &["run", "-t", "--name", "sleeper", "--", "sleep", "100"]);
    terminal.until_raw();
    terminal.press(b"\x10\x11");
    assert_eq!(wait(child).code(), Some(0));
    terminal.read_until("bulkhead attach sleeper");
    terminal.assert_restored();
    assert!(text(&world.output(&["ps"]).stdout).contains("sleeper"));
    assert!(world.output(&["kill", "-s", "KILL", "sleeper"]).status.success());
}

#[test]
fn a_failed_start_leaves_the_terminal_alone() {
    let world = World::new();
    let mut terminal = Terminal::new(24, 80);
    let child = terminal.start(&world, &["run", "-t", "--", "no-such-command"]);
    assert_eq!(wait(child).code(), Some(127));
    terminal.read_until("bulkhead: run: no-such-command");
    terminal.assert_restored();
}

/// Leaves the alternate screen (xterm, "Alternate Screen Buffer").
const LEFT: &str = "\x1b[?1049l";

#[test]
fn top_shows_containers_kills_and_leaves_the_screen() {
    let world = World::new();
    assert!(
        world
            .output(&["run", "-d", "--name", "sleeper", "--", "sleep", "100"])
            .status
            .success()
    );
    let mut terminal = Terminal::new(24, 80);
    let child = terminal.start(&world, &["top", "--interval", "100ms"]);
    terminal.read_until("sleeper");
    terminal.read_until("25.0%");
    terminal.press(b"k");
    terminal.read_until("kill sleeper?");
    terminal.press(b"9");
    terminal.read_until("no container is running");
    terminal.press(b"q");
    assert_eq!(wait(child).code(), Some(0));
    terminal.read_until(LEFT);
    terminal.assert_restored();
}

#[test]
fn a_signal_leaves_the_screen_too() {
    let world = World::new();
    let mut terminal = Terminal::new(10, 40);
    let child = terminal.start(&world, &["top"]);
    terminal.read_until("no container");
    send(&child, Signal::SIGTERM);
    assert_eq!(wait(child).code(), Some(0));
    terminal.read_until(LEFT);
    terminal.assert_restored();
}

#[test]
fn a_screen_too_small_for_top_says_so() {
    let world = World::new();
    let mut terminal = Terminal::new(2, 10);
    let child = terminal.start(&world, &["top"]);
    terminal.read_until("small");
    terminal.press(b"q");
    assert_eq!(wait(child).code(), Some(0));
    terminal.read_until(LEFT);
    terminal.assert_restored();
}
