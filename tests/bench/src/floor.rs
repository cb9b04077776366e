//! The C floor programs, as processes that answer one line for each line they are given.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Where the build put a floor program. In the target directory, so it is visible in containers too, whose `/tmp` is
/// their own.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("FLOOR_DIR")).join(name)
}

/// A running helper. Dropping it closes its stdin, which ends it, and waits until it has cleaned up.
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts it and waits for its first line, which says that it is ready.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?);
        let mut helper = Self { child, stdin, stdout };
        helper.answer()?;
        Ok(helper)
    }

    /// One command, one number.
    pub fn ask(&mut self, line: &str) -> io::Result<u64> {
        let numbers = self.ask_all(line)?;
        numbers
            .first()
            .copied()
            .ok_or_else(|| io::Error::other("helper answered nothing"))
    }

    /// One command, as many numbers as it answers.
    pub fn ask_all(&mut self, line: &str) -> io::Result<Vec<u64>> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or_else(|| io::Error::other("helper is closed"))?;
        stdin.write_all(format!("{line}\n").as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Vec<u64>> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(io::Error::other("helper gave up; its reason stands above"));
        }
        let numbers = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>();
        numbers.map_err(|_| io::Error::other(format!("helper answered {line:?}")))
    }

    /// Ends one that serves for ever and does not read stdin.
    pub fn kill(mut self) {
        let _ = self.child.kill();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
