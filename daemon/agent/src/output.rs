//! A container's output: from its pipes into files, from the files to whoever follows.
//!
//! ```text
//! command ──pipe──> worker appends ──> stdout, stdout.1 …  ──> follower 1 (own place)
//!                                                          └─> follower 2 (own place)
//! ```
//!
//! The file is the only buffer. A slow follower costs nobody memory and holds nobody up: it falls behind, and
//! when rotation overtakes it, it is told how many bytes it missed. A *lossless* follower (the foreground of
//! `run`) holds the command back instead, as a pipe would.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};

use container::output::{LogCursor, LogRead, RotatingFile};
use model::{Fault, OutputPolicy};

use crate::changed::Changed;
use crate::launch::failed;
use crate::sink::OutputSink;

/// Moved from a pipe to a file in one job: what a pipe holds, several times over.
const TRANSFER_MAX: usize = 256 << 10;
/// Read from a file and sent at a time; the client's window is of this order.
const CHUNK: usize = 32 << 10;
/// Opened at the first byte: a silent container has no files.
struct Lazy {
    directory: PathBuf,
    name: &'static str,
    policy: OutputPolicy,
    file: Option<RotatingFile>,
}

impl Lazy {
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let file = self.file()?;
        file.append(bytes)?;
        Ok(file.end())
    }

    /// What the pipe holds goes into the file without passing through us: should we be killed in between, it is in
    /// one of the two.
    fn take_from(&mut self, pipe: &File, most: usize) -> io::Result<(usize, u64)> {
        if self.file.is_none() && kernel::descriptor::readable_bytes(pipe)? == 0 {
            // Its end, most likely; no file is made for that.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = self.file()?;
        let count = file.take_from(pipe, most)?;
        Ok((count, file.end()))
    }

    fn file(&mut self) -> io::Result<&mut RotatingFile> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
                    .create(&self.directory)
                {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                RotatingFile::open(&self.directory, self.name, self.policy)?
            }
        };
        Ok(self.file.insert(file))
    }
}

/// How far a lossless follower may be behind before the command waits.
const LAG_MAX: u64 = 1 << 20;

/// Standard streams by their number: 1 stdout (and a terminal), 2 stderr.
const NAMES: [(u8, &str); 2] = [(1, "stdout"), (2, "stderr")];

fn name_of(number: u8) -> &'static str {
    NAMES[usize::from(number != 1)].1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Beginning,
    Now,
    LastLines(u32),
}

/// What a follower wants.
#[derive(Debug, Clone, Copy)]
pub struct Follow {
    pub stdout: bool,
    pub stderr: bool,
    pub start: Start,
    /// Go on with what comes; otherwise end where the files end now.
    pub live: bool,
    pub lossless: bool,
}

impl Follow {
    pub fn all_from_start(lossless: bool) -> Self {
        Self {
            stdout: true,
            stderr: true,
            start: Start::Beginning,
            live: true,
            lossless,
        }
    }
}

pub struct ContainerOutput {
    directory: PathBuf,
    policy: OutputPolicy,
    pool: net::Pool,
    streams: RefCell<Vec<Rc<Stream>>>,
    /// No agent before us has written.
    fresh: Cell<bool>,
    /// Nothing more will come: every stream is at its end, or none was ever opened and none will be.
    ended: Cell<bool>,
    /// More was written, or the end was reached, or a follower moved on or left.
    changed: Changed,
    followers: Cell<usize>,
    places: RefCell<Vec<Weak<Place>>>,
}

/// One pipe and its file.
struct Stream {
    number: u8,
    file: Arc<Mutex<Lazy>>,
    written: Cell<u64>,
    /// Bytes that no file could take (a full disk).
    lost: Cell<u64>,
    at_end: Cell<bool>,
    _pump: RefCell<Option<net::Task<()>>>,
}

/// How far a lossless follower has come, by stream number - 1.
struct Place([Cell<u64>; 2]);

/// What one transfer came to.
struct Transfer {
    bytes: u64,
    lost: u64,
    /// Logical end of the file now.
    end: Option<u64>,
    /// The pipe had more when the job stopped.
    more: bool,
    at_end: bool,
    /// The file could not take it: the bytes are lost, the command goes on.
    error: Option<io::Error>,
}

impl ContainerOutput {
    pub fn new(directory: PathBuf, policy: OutputPolicy, pool: net::Pool) -> Rc<Self> {
        Rc::new(Self {
            directory,
            policy,
            pool,
            streams: RefCell::default(),
            fresh: Cell::new(false),
            ended: Cell::new(false),
            changed: Changed::default(),
            followers: Cell::new(0),
            places: RefCell::default(),
        })
    }

    /// Takes over the reading ends. With a terminal there is only the first.
    pub fn start(self: &Rc<Self>, first: Option<OwnedFd>, second: Option<OwnedFd>) -> io::Result<()> {
        for ((number, name), end) in NAMES.into_iter().zip([first, second]) {
            let Some(end) = end else { continue };
            kernel::socket::set_nonblocking(end.as_fd())?;
            let source = net::Source::new(Arc::new(File::from(end)), net::Interest::Readable)?;
            let file = Lazy {
                directory: self.directory.clone(),
                name,
                policy: self.policy,
                file: None,
            };
            let stream = Rc::new(Stream {
                number,
                written: Cell::new(0),
                lost: Cell::new(0),
                file: Arc::new(Mutex::new(file)),
                at_end: Cell::new(false),
                _pump: RefCell::new(None),
            });
            self.streams.borrow_mut().push(stream.clone());
            let task = net::spawn(pump(self.clone(), stream.clone(), source));
            *stream._pump.borrow_mut() = Some(task);
        }
        Ok(())
    }

    /// Says that this container is new: what its files hold will be ours alone.
    pub fn mark_fresh(&self) {
        self.fresh.set(true);
    }

    /// There will be no output (any more): the launch failed, or the container is over.
    pub fn close_if_silent(&self) {
        if self.streams.borrow().iter().all(|s| s.at_end.get()) {
            self.ended.set(true);
            self.changed.notify();
        }
    }

    /// Resolves when everything that was written is in the files.
    pub async fn drained(&self) {
        self.until(|this| this.ended.get()).await;
    }

    /// As [`Self::drained`], and nobody reads the files any more.
    pub async fn finished(&self) {
        self.until(|this| this.ended.get() && this.followers.get() == 0)
            .await;
    }

    async fn until(&self, met: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if met(self) {
                return;
            }
            changed.await;
        }
    }

    /// Sends what is wanted to `sink`, then `done`. The follower counts from this call on, not from the
    /// first poll.
    pub fn follow(
        self: &Rc<Self>,
        want: Follow,
        sink: OutputSink,
    ) -> impl Future<Output = Result<(), Fault>> + use<> {
        let place = want
            .lossless
            .then(|| Rc::new(Place([Cell::new(0), Cell::new(0)])));
        if let Some(place) = &place {
            self.places.borrow_mut().push(Rc::downgrade(place));
        }
        let presence = Presence::new(self.clone());
        let output = self.clone();
        async move {
            let _presence = presence;
            output.send_all(want, place, &sink).await?;
            sink.done().await
        }
    }

    async fn send_all(&self, want: Follow, place: Option<Rc<Place>>, sink: &OutputSink) -> Result<(), Fault> {
        let mut cursors: Vec<(u8, Option<LogCursor>)> = Vec::new();
        // Without `live` the end is where the files end now, however fast they grow.
        let mut ends = Vec::new();
        for (number, name) in NAMES {
            if (number == 1 && want.stdout) || (number == 2 && want.stderr) {
                let cursor = match self.known_end(number) {
                    // Most commands say nothing at all on one of the two.
                    Some(0) => None,
                    _ => Some(self.open(name, want.start).await?),
                };
                let end = match &cursor {
                    _ if want.live => u64::MAX,
                    Some(cursor) => cursor.end().map_err(|e| failed(&e))?,
                    None => 0,
                };
                ends.push(end);
                cursors.push((number, cursor));
            }
        }
        let mut lost_told = [0; 2];
        loop {
            let changed = self.changed.notified();
            let ended = self.ended.get();
            let mut moved = false;
            for (index, (number, cursor)) in std::mem::take(&mut cursors).into_iter().enumerate() {
                let offset = cursor.as_ref().map_or(0, LogCursor::offset);
                if offset >= ends[index] {
                    cursors.push((number, cursor));
                    continue;
                }
                moved |= self.tell_lost(number, &mut lost_told, sink).await?;
                if self.known_end(number) == Some(offset) {
                    cursors.push((number, cursor));
                    continue;
                }
                let cursor = match cursor {
                    Some(cursor) => cursor,
                    // Silent when we looked first: from its beginning, whatever was asked for then.
                    None => self.open(name_of(number), Start::Beginning).await?,
                };
                let (cursor, sent) = self.send_some(number, cursor, sink).await?;
                moved |= sent;
                if let Some(place) = place.as_ref().filter(|_| sent) {
                    place.0[usize::from(number) - 1].set(cursor.offset());
                    self.changed.notify();
                }
                cursors.push((number, Some(cursor)));
            }
            if !moved {
                if ended || !want.live {
                    return Ok(());
                }
                changed.await;
            }
        }
    }

    async fn open(&self, name: &'static str, start: Start) -> Result<LogCursor, Fault> {
        let directory = self.directory.clone();
        let opened = self.pool.run(move || open_cursor(&directory, name, start)).await;
        opened.map_err(|e| failed(&e))?.map_err(|e| failed(&e))
    }

    /// Where the file of a stream ends, when this agent has written all of it or some: then nobody has to ask the
    /// file. `None`: an agent before us may have written.
    fn known_end(&self, number: u8) -> Option<u64> {
        let streams = self.streams.borrow();
        let written = streams
            .iter()
            .find(|s| s.number == number)
            .map_or(0, |s| s.written.get());
        (written > 0 || self.fresh.get()).then_some(written)
    }

    /// Says what was lost since the last time.
    async fn tell_lost(&self, number: u8, told: &mut [u64; 2], sink: &OutputSink) -> Result<bool, Fault> {
        let lost = self
            .streams
            .borrow()
            .iter()
            .find(|s| s.number == number)
            .map_or(0, |s| s.lost.get());
        let told = &mut told[usize::from(number) - 1];
        let new = lost - *told;
        *told = lost;
        if new > 0 {
            sink.gap(number, new).await?;
        }
        Ok(new > 0)
    }

    /// One chunk, if there is one. The cursor travels to the worker and back.
    async fn send_some(
        &self,
        number: u8,
        mut cursor: LogCursor,
        sink: &OutputSink,
    ) -> Result<(LogCursor, bool), Fault> {
        let read = self
            .pool
            .run(move || {
                let mut buffer = vec![0; CHUNK];
                let read = cursor.read(&mut buffer);
                (cursor, read, buffer)
            })
            .await;
        let (cursor, read, buffer) = read.map_err(|e| failed(&e))?;
        match read.map_err(|e| failed(&e))? {
            LogRead::Data(count) => sink.write(number, &buffer[..count]).await?,
            LogRead::Gap(bytes) => sink.gap(number, bytes).await?,
            LogRead::End => return Ok((cursor, false)),
        }
        Ok((cursor, true))
    }

    /// Waits while a lossless follower is too far behind to let more through.
    async fn wait_for_lossless(&self, stream: &Stream) {
        // Half a file: rotation can then never overtake the follower.
        let lag_max = LAG_MAX.min(self.policy.file_bytes.get() / 2);
        let index = usize::from(stream.number) - 1;
        self.until(|this| {
            this.places.borrow_mut().retain(|place| place.strong_count() > 0);
            let places = this.places.borrow();
            let slowest = places
                .iter()
                .filter_map(|p| p.upgrade().map(|p| p.0[index].get()))
                .min();
            slowest.is_none_or(|place| stream.written.get().saturating_sub(place) < lag_max)
        })
        .await;
    }
}

/// Counts a follower for as long as it lives, however it ends.
struct Presence(Rc<ContainerOutput>);

impl Presence {
    fn new(output: Rc<ContainerOutput>) -> Self {
        output.followers.set(output.followers.get() + 1);
        Self(output)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.followers.set(self.0.followers.get() - 1);
        self.0.changed.notify();
    }
}

async fn pump(output: Rc<ContainerOutput>, stream: Rc<Stream>, source: net::Source<Arc<File>>) {
    let mut more = false;
    loop {
        if !more {
            source.readable().await;
        }
        output.wait_for_lossless(&stream).await;
        // Forgotten before the job looks: what arrives while it runs makes the source readable again.
        source.forget_readable();
        let (pipe, file) = (source.get_ref().clone(), stream.file.clone());
        let room = TRANSFER_MAX.min((output.policy.file_bytes.get() / 4).max(1) as usize);
        let moved = output.pool.run(move || transfer(&pipe, &file, room)).await;
        let Ok(moved) = moved else { break };
        if let Some(error) = moved.error {
            // Followers are told by a gap. The command goes on: a full disk is no reason to stop a service.
            stream.lost.set(stream.lost.get() + moved.lost);
            tracing::error!(directory = %output.directory.display(), bytes = moved.lost, "output lost: {error}");
        }
        if let Some(end) = moved.end {
            stream.written.set(end);
        }
        more = moved.more;
        if moved.bytes > 0 {
            output.changed.notify();
        }
        if moved.at_end {
            break;
        }
    }
    drop(source);
    stream.at_end.set(true);
    output.close_if_silent();
}

/// Runs on a worker: moves what the pipe has, up to `room`, into the file.
fn transfer(pipe: &File, file: &Mutex<Lazy>, room: usize) -> Transfer {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(TRANSFER_MAX, 0);
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moved = Transfer {
            bytes: 0,
            lost: 0,
            end: None,
            more: false,
            at_end: false,
            error: None,
        };
        let mut pipe = pipe;
        loop {
            match file.take_from(pipe, room - moved.bytes as usize) {
                Ok((count, end)) if count > 0 => {
                    moved.bytes += count as u64;
                    moved.end = Some(end);
                    if moved.bytes >= room as u64 {
                        moved.more = true;
                        break;
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Its end, a terminal, or a file that takes nothing more: by way of a buffer.
                _ => {}
            }
            match pipe.read(&mut buffer[..room]) {
                Ok(0) => {
                    moved.at_end = true;
                    break;
                }
                Ok(count) => {
                    moved.bytes += count as u64;
                    match file.append(&buffer[..count]) {
                        Ok(end) => moved.end = Some(end),
                        Err(error) => {
                            moved.lost += count as u64;
                            moved.error = Some(error);
                        }
                    }
                    if moved.bytes >= room as u64 {
                        moved.more = true;
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A terminal whose last process is gone says EIO.
                Err(_) => {
                    moved.at_end = true;
                    break;
                }
            }
        }
        if moved.at_end {
            // A container is remembered for long after its end; its file need not be open for that.
            file.file = None;
        }
        moved
    })
}

/// Runs on a worker.
fn open_cursor(directory: &Path, name: &str, start: Start) -> io::Result<LogCursor> {
    let cursor = LogCursor::from_start(directory, name)?;
    let end = cursor.end()?;
    match start {
        Start::Beginning => Ok(cursor),
        Start::Now => LogCursor::at(directory, name, end),
        Start::LastLines(lines) => {
            let offset = last_lines(directory, name, cursor.offset(), end, lines)?;
            LogCursor::at(directory, name, offset)
        }
    }
}

/// Where the last `lines` lines begin, found from behind, a chunk at a time.
fn last_lines(directory: &Path, name: &str, begin: u64, end: u64, lines: u32) -> io::Result<u64> {
    let mut wanted = lines;
    let mut chunk_end = end;
    while chunk_end > begin {
        let chunk_begin = chunk_end.saturating_sub(CHUNK as u64).max(begin);
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut cursor = LogCursor::at(directory, name, chunk_begin)?;
        while (chunk.len() as u64) < chunk_end - chunk_begin {
            let mut buffer = vec![0; (chunk_end - chunk_begin) as usize - chunk.len()];
            match cursor.read(&mut buffer)? {
                LogRead::Data(count) => chunk.extend_from_slice(&buffer[..count]),
                // Rotated away while we looked: what is left is less than was asked for.
                LogRead::Gap(_) | LogRead::End => return Ok(cursor.offset()),
            }
        }
        for (index, byte) in chunk.iter().enumerate().rev() {
            let offset = chunk_begin + index as u64 + 1;
            // The last line's own end does not begin another.
            if *byte == b'\n' && offset != end {
                wanted -= 1;
                if wanted == 0 {
                    return Ok(offset);
                }
            }
        }
        chunk_end = chunk_begin;
    }
    Ok(begin)
}

thread_local! {
    /// One per worker, so that an idle container holds no buffer.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_across_chunks() {
        let directory = tempfile::tempdir().unwrap();
        let policy = OutputPolicy {
            file_bytes: model::Bytes::mib(1),
            files: 2,
        };
        let mut file = RotatingFile::open(directory.path(), "stdout", policy).unwrap();
        for n in 0..20_000 {
            file.append(format!("line {n}\n").as_bytes()).unwrap();
        }
        let read = |lines| {
            let mut cursor = open_cursor(directory.path(), "stdout", Start::LastLines(lines)).unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while let LogRead::Data(count) = cursor.read(&mut buffer).unwrap() {
                text.extend_from_slice(&buffer[..count]);
            }
            String::from_utf8(text).unwrap()
        };
        assert_eq!(read(1), "line 19999\n");
        assert_eq!(read(3), "line 19997\nline 19998\nline 19999\n");
        assert_eq!(read(10_000).lines().count(), 10_000);
        assert_eq!(read(10_000).lines().next(), Some("line 10000"));
        assert_eq!(read(99_999).lines().count(), 20_000);
    }
}
