//! Output that goes on where it was cut.

use std::cell::RefCell;
use std::rc::Rc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use futures::lock::Mutex;
use model::Fault;

use crate::output::{Output, STDERR, STDOUT};

/// An output that can be attached anew from the beginning, to the same agent or its successor: what
/// it has already passed on is skipped. The agent keeps what a command wrote in files that outlive
/// it, so the bytes from the beginning are the same ones.
///
/// Clones share the output and its position.
#[derive(Clone)]
pub struct Resumable {
    output: Rc<Mutex<Box<dyn Output>>>,
    position: Rc<RefCell<Position>>,
}

/// Bytes by stream: stdout, stderr.
#[derive(Debug, Default, Clone, Copy)]
struct Position {
    passed: [u64; 2],
    /// Of those that come, already passed on.
    skip: [u64; 2],
}

impl Position {
    /// How many of `bytes` were passed on before; counts the others as passed.
    fn advance(&mut self, stream: u8, bytes: u64) -> u64 {
        let index = match stream {
            STDOUT => 0,
            STDERR => 1,
            _ => return 0,
        };
        let old = self.skip[index].min(bytes);
        self.skip[index] -= old;
        self.passed[index] += bytes - old;
        old
    }
}

impl Resumable {
    /// `output` must be attached from the beginning the first time too.
    pub fn new(output: Box<dyn Output>) -> Self {
        Self {
            output: Rc::new(Mutex::new(output)),
            position: Rc::default(),
        }
    }

    /// What comes next is from the beginning again.
    pub fn restart(&self) {
        let mut position = self.position.borrow_mut();
        position.skip = position.passed;
    }
}

impl Output for Resumable {
    fn write<'a>(&'a mut self, stream: u8, data: &'a [u8]) -> LocalBoxFuture<'a, Result<(), Fault>> {
        async move {
            let old = self.position.borrow_mut().advance(stream, data.len() as u64) as usize;
            match data.get(old..) {
                Some(new) if !new.is_empty() => self.output.lock().await.write(stream, new).await,
                _ => Ok(()),
            }
        }
        .boxed_local()
    }

    fn gap(&mut self, stream: u8, bytes: u64) -> LocalBoxFuture<'_, Result<(), Fault>> {
        async move {
            let old = self.position.borrow_mut().advance(stream, bytes);
            if bytes == old {
                return Ok(());
            }
            self.output.lock().await.gap(stream, bytes - old).await
        }
        .boxed_local()
    }

    fn done(&mut self) -> LocalBoxFuture<'_, Result<(), Fault>> {
        async move { self.output.lock().await.done().await }.boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Clone)]
    struct Kept(Rc<RefCell<Vec<String>>>);

    impl Output for Kept {
        fn write<'a>(&'a mut self, stream: u8, data: &'a [u8]) -> LocalBoxFuture<'a, Result<(), Fault>> {
            self.0
                .borrow_mut()
                .push(format!("{stream}:{}", String::from_utf8_lossy(data)));
            futures::future::ready(Ok(())).boxed_local()
        }
        fn gap(&mut self, stream: u8, bytes: u64) -> LocalBoxFuture<'_, Result<(), Fault>> {
            self.0.borrow_mut().push(format!("{stream}-{bytes}"));
            futures::future::ready(Ok(())).boxed_local()
        }
        fn done(&mut self) -> LocalBoxFuture<'_, Result<(), Fault>> {
            self.0.borrow_mut().push("done".into());
            futures::future::ready(Ok(())).boxed_local()
        }
    }

    #[test]
    fn every_byte_is_passed_on_once() {
        let kept = Kept::default();
        let mut output = Resumable::new(Box::new(kept.clone()));
        let passed = async {
            output.write(STDOUT, b"abc").await.unwrap();
            output.write(STDERR, b"E").await.unwrap();
            output.restart();
            output.write(STDOUT, b"ab").await.unwrap();
            output.write(STDERR, b"EF").await.unwrap();
            output.write(STDOUT, b"cde").await.unwrap();
            output.done().await.unwrap();
        };
        passed.now_or_never().unwrap();
        assert_eq!(*kept.0.borrow(), ["1:abc", "2:E", "2:F", "1:de", "done"]);
    }

    #[test]
    fn bytes_rotated_away_count_as_skipped() {
        let kept = Kept::default();
        let mut output = Resumable::new(Box::new(kept.clone()));
        let passed = async {
            output.write(STDOUT, b"abcdef").await.unwrap();
            output.restart();
            output.gap(STDOUT, 4).await.unwrap();
            output.write(STDOUT, b"efgh").await.unwrap();
            output.restart();
            output.gap(STDOUT, 10).await.unwrap();
            output.write(STDOUT, b"k").await.unwrap();
        };
        passed.now_or_never().unwrap();
        assert_eq!(*kept.0.borrow(), ["1:abcdef", "1:gh", "1-2", "1:k"]);
    }
}
