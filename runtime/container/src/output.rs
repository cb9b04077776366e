//! Kept output of a container: files that rotate by size, and a reader that follows them.
//!
//! ```text
//! stdout        being written            stdout.index   where each began, in bytes of all output ever
//! stdout.1      full, newest             stdout.new     only during a rotation
//! stdout.2      full, oldest
//! ```
//! Every byte has a *logical offset*: its number in all output of the stream. A reader keeps only that,
//! so it survives rotations and restarts, and can say how much it missed. The index is written before
//! each rotation; the files renamed after it are found in it by inode, and a file that is not in it
//! begins where its predecessor ends.
//!
//! Plain blocking file calls, for worker threads. Links are never followed: the directory may be within
//! reach of the container.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::OutputPolicy;

/// Keeps a file of one byte per rotation from being asked for.
const FILE_BYTES_MIN: u64 = 4096;

/// Nobody writes four exabytes: an offset beyond is damage, and would overflow what is counted from it.
const OFFSET_MAX: u64 = 1 << 62;

/// Keeps one listing of a directory from being asked for thousands of names.
const FILES_MAX: u32 = 1000;

/// The names of one stream.
#[derive(Debug, Clone)]
struct Names {
    directory: PathBuf,
    name: String,
}

impl Names {
    fn current(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
    fn number(&self, number: u32) -> PathBuf {
        if number == 0 {
            self.current()
        } else {
            self.with(&number.to_string())
        }
    }
    fn with(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}.{suffix}", self.name))
    }
}

/// One file of the stream as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    path: PathBuf,
    inode: u64,
    /// Logical offset of its first byte.
    begin: u64,
    size: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.begin + self.size
    }
}

/// What `stdout.index` says: where files began, and where the one after them begins.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    next: u64,
    begins: Vec<(u64, u64)>,
}

impl Index {
    fn parse(text: &str) -> Self {
        let mut index = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(first), Some(Ok(offset))) = (words.next(), words.next().map(str::parse::<u64>)) else {
                continue;
            };
            if offset > OFFSET_MAX {
                continue;
            }
            match first.parse() {
                Ok(inode) => index.begins.push((inode, offset)),
                Err(_) => index.next = offset,
            }
        }
        index
    }

    fn print(&self) -> String {
        let mut text = format!("next {}\n", self.next);
        for (inode, begin) in &self.begins {
            text.push_str(&format!("{inode} {begin}\n"));
        }
        text
    }
}

/// What a stream consisted of at one instant.
#[derive(Debug)]
struct Snapshot {
    index: String,
    /// From the oldest to the current one.
    segments: Vec<Segment>,
}

/// A writer that rotates without a pause is overtaken after a few rounds; this many mean that something
/// else is wrong.
const SNAPSHOT_ROUNDS: u32 = 10_000;

impl Snapshot {
    /// Listing is many calls, and the writer does not wait for them: a file seen under two numbers, or one
    /// that grew after it was measured, would put all later ones at a wrong offset. So everything is looked
    /// at twice. An index that did not change means that no rotation began in between, and within one
    /// rotation a name never gets back a file it has lost: two equal listings are what was there between
    /// them. Nor can an inode number in the index belong to a later file then, because that file
    /// is made before any of the known ones goes.
    fn take(names: &Names) -> io::Result<Self> {
        for _ in 0..SNAPSHOT_ROUNDS {
            let index = read_index(names)?;
            let found = list(names)?;
            let again = list(names)?;
            let same = |(one, two): (&Found, &Found)| one.path == two.path && one.inode == two.inode;
            if found.len() == again.len() && found.iter().zip(&again).all(same) && read_index(names)? == index
            {
                // The first listing's sizes: they were measured before the index was seen to be the same.
                let segments = place(found, &Index::parse(&index));
                return Ok(Self { index, segments });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "rotates faster than it can be listed",
        ))
    }
}

fn read_index(names: &Names) -> io::Result<String> {
    match fs::read_to_string(names.with("index")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

#[derive(Debug)]
struct Found {
    path: PathBuf,
    inode: u64,
    size: u64,
}

/// One pass over the names, from the current file to the oldest.
fn list(names: &Names) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut missing = 0;
    for number in 0..FILES_MAX {
        let path = names.number(number);
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_file() => {
                missing = 0;
                found.push(Found {
                    path,
                    inode: facts.ino(),
                    size: facts.len(),
                });
            }
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file")),
            // One name is free for an instant during a rotation, or longer if its writer died there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == 0 => missing = 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Where each file begins.
fn place(found: Vec<Found>, index: &Index) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::with_capacity(found.len());
    for Found { path, inode, size } in found.into_iter().rev() {
        let known = || index.begins.iter().find(|(known, _)| *known == inode);
        let begin = match segments.last() {
            Some(previous) => previous.end(),
            None => known().map_or(index.next, |(_, begin)| *begin),
        };
        segments.push(Segment {
            path,
            inode,
            begin,
            size,
        });
    }
    segments
}

fn segments(names: &Names) -> io::Result<Vec<Segment>> {
    Ok(Snapshot::take(names)?.segments)
}

/// The writer of one stream.
#[derive(Debug)]
pub struct RotatingFile {
    names: Names,
    policy: OutputPolicy,
    file: File,
    begin: u64,
    size: u64,
}

impl RotatingFile {
    /// Goes on where an earlier writer ended.
    pub fn open(directory: &Path, name: &str, policy: OutputPolicy) -> io::Result<Self> {
        let names = Names {
            directory: directory.to_owned(),
            name: name.to_owned(),
        };
        let begin = match segments(&names)?.last() {
            Some(last) if last.path == names.current() => last.begin,
            Some(last) => last.end(),
            None => 0,
        };
        let file = open_to_write(&names.current(), false)?;
        let size = file.metadata()?.len();
        Ok(Self {
            names,
            policy,
            file,
            begin,
            size,
        })
    }

    /// Logical offset of the next byte.
    pub fn end(&self) -> u64 {
        self.begin + self.size
    }

    /// Moves what a pipe holds, at most `most` bytes and what the current file has room for. Of what is not in the file
    /// afterwards nothing has left the pipe: a writer that is killed loses nothing. `Ok(0)`: nobody writes to the
    /// pipe any more; `WouldBlock`: it is empty; `InvalidInput`: it is no pipe, see [`Self::append`].
    pub fn take_from(&mut self, pipe: impl AsFd, most: usize) -> io::Result<usize> {
        let room = self.room()?.min(most);
        let moved = kernel::descriptor::move_from_pipe(pipe, &self.file, self.size, room)?;
        self.size += moved as u64;
        Ok(moved)
    }

    /// What the current file can take; a new one, if it is full.
    fn room(&mut self) -> io::Result<usize> {
        let limit = self.policy.file_bytes.get().max(FILE_BYTES_MIN);
        if self.size >= limit {
            self.rotate()?;
        }
        Ok(usize::try_from(limit - self.size).unwrap_or(usize::MAX))
    }

    /// Appends all of `bytes`, rotating as often as needed. After an error what was written is kept and
    /// counted.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?.min(bytes.len());
            match self.file.write_at(&bytes[..room], self.size) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.size += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let next = self.end();
        let begins = segments(&self.names)?
            .iter()
            .map(|file| (file.inode, file.begin))
            .collect();
        replace(&self.names.with("index"), &Index { next, begins }.print())?;
        // Made while all others still exist: its inode can not be one that the index knows.
        let fresh = self.names.with("new");
        let file = open_to_write(&fresh, true)?;
        let kept = self.policy.files.clamp(1, FILES_MAX);
        for number in (0..kept - 1).rev() {
            match fs::rename(self.names.number(number), self.names.number(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&fresh, self.names.current())?;
        self.file = file;
        self.begin = next;
        self.size = 0;
        Ok(())
    }
}

fn open_to_write(path: &Path, empty: bool) -> io::Result<File> {
    if empty {
        // A left-over of a rotation that was cut short.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Not for appending, which splice(2) refuses: there is one writer, and it knows where the end is.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(kernel::file_flags::NO_FOLLOW)
        .open(path)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = open_to_write(Path::new(&temporary), true)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&temporary, path)
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRead {
    /// So many bytes are in the buffer.
    Data(usize),
    /// So many bytes were rotated away before they were read; the cursor stands behind them.
    Gap(u64),
    /// Nothing more for now.
    End,
}

/// Follows a stream from a logical offset.
#[derive(Debug)]
pub struct LogCursor {
    names: Names,
    offset: u64,
    open: Option<(File, Segment)>,
}

impl LogCursor {
    /// At a logical offset; one that is no longer kept yields a gap first, one beyond the end is
    /// clamped to the end.
    pub fn at(directory: &Path, name: &str, offset: u64) -> io::Result<Self> {
        let mut cursor = Self::from_start(directory, name)?;
        cursor.offset = offset.min(cursor.end()?);
        Ok(cursor)
    }

    /// At the oldest byte that is kept.
    pub fn from_start(directory: &Path, name: &str) -> io::Result<Self> {
        let names = Names {
            directory: directory.to_owned(),
            name: name.to_owned(),
        };
        let offset = segments(&names)?.first().map_or(0, |oldest| oldest.begin);
        Ok(Self {
            names,
            offset,
            open: None,
        })
    }

    /// Logical offset of the next byte to be read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Logical offset behind the last byte that is kept now.
    pub fn end(&self) -> io::Result<u64> {
        Ok(segments(&self.names)?.last().map_or(self.offset, Segment::end))
    }

    /// Reads what follows, at most a buffer full, from one file at a time.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<LogRead> {
        // Once for the file at hand, once for its successor; more only if the writer rotates as fast.
        for _ in 0..READ_ROUNDS {
            if let Some((file, segment)) = &self.open {
                match file.read_at(buffer, self.offset - segment.begin) {
                    Ok(0) => {}
                    Ok(count) => {
                        self.offset += count as u64;
                        return Ok(LogRead::Data(count));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
                if is_current(&self.names, segment)? {
                    return Ok(LogRead::End);
                }
                // Rotated; but it may have grown between our read and the rotation.
                let count = file.read_at(buffer, self.offset - segment.begin)?;
                if count > 0 {
                    self.offset += count as u64;
                    return Ok(LogRead::Data(count));
                }
            }
            if let Some(answer) = self.move_on()? {
                return Ok(answer);
            }
        }
        Ok(LogRead::End)
    }

    /// Opens the file that holds the next byte.
    fn move_on(&mut self) -> io::Result<Option<LogRead>> {
        self.open = None;
        let Snapshot { index, segments } = Snapshot::take(&self.names)?;
        let Some(oldest) = segments.first() else {
            return Ok(Some(LogRead::End));
        };
        if self.offset < oldest.begin {
            let gap = oldest.begin - self.offset;
            self.offset = oldest.begin;
            return Ok(Some(LogRead::Gap(gap)));
        }
        let holds = |file: &&Segment| file.begin <= self.offset && self.offset < file.end();
        let Some(segment) = segments.iter().find(holds).or_else(|| segments.last()) else {
            return Ok(Some(LogRead::End));
        };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(kernel::file_flags::NO_FOLLOW)
            .open(&segment.path);
        let file = match file {
            // Rotated away between listing and opening.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // Another file may have got the name in the meantime; after a rotation even one with the same number.
        let same = file.metadata()?.ino() == segment.inode && read_index(&self.names)? == index;
        if same && segment.begin <= self.offset {
            self.open = Some((file, segment.clone()));
        }
        Ok(None)
    }
}

const READ_ROUNDS: u32 = 8;

fn is_current(names: &Names, segment: &Segment) -> io::Result<bool> {
    match fs::symlink_metadata(names.current()) {
        Ok(facts) => Ok(facts.ino() == segment.inode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Bytes;
    use proptest::prelude::*;

    fn policy(file_bytes: u64, files: u32) -> OutputPolicy {
        OutputPolicy {
            file_bytes: Bytes(file_bytes),
            files,
        }
    }

    /// Byte n of the stream, so that a reader can tell what it got.
    fn byte(offset: u64) -> u8 {
        (offset % 251) as u8
    }

    fn bytes(from: u64, count: usize) -> Vec<u8> {
        (from..).take(count).map(byte).collect()
    }

    /// Reads until nothing is left; checks every byte; gives the bytes seen and missed.
    fn drain(cursor: &mut LogCursor) -> (u64, u64) {
        let (mut seen, mut missed) = (0, 0);
        let mut buffer = [0; 1000];
        loop {
            let from = cursor.offset();
            match cursor.read(&mut buffer).unwrap() {
                LogRead::End => return (seen, missed),
                LogRead::Gap(count) => missed += count,
                LogRead::Data(count) => {
                    assert_eq!(buffer[..count], bytes(from, count), "at {from}");
                    seen += count as u64;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_reader_sees_or_misses_every_byte_exactly_once(
            files in 1u32..4,
            steps in prop::collection::vec((0usize..9000, any::<bool>(), any::<bool>()), 1..30),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let open = || RotatingFile::open(directory.path(), "stdout", policy(4096, files)).unwrap();
            let mut file = open();
            let mut cursor = LogCursor::from_start(directory.path(), "stdout").unwrap();
            let (mut seen, mut missed, mut written) = (0, 0, 0u64);
            for (count, read, reopen) in steps {
                file.append(&bytes(written, count)).unwrap();
                written += count as u64;
                if reopen {
                    file = open();
                }
                prop_assert_eq!(file.end(), written);
                if read {
                    let (more, gone) = drain(&mut cursor);
                    seen += more;
                    missed += gone;
                    prop_assert_eq!(seen + missed, written);
                }
            }
            let kept = (0..10).filter(|n| directory.path().join(format!("stdout.{n}")).exists()).count();
            prop_assert!(kept < files as usize, "{} files beside the current one", kept);
        }
    }

    #[test]
    fn a_reader_that_is_behind_is_told_how_much_it_missed() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open(directory.path(), "stderr", policy(4096, 2)).unwrap();
        file.append(&bytes(0, 100)).unwrap();
        let mut cursor = LogCursor::at(directory.path(), "stderr", 50).unwrap();
        file.append(&bytes(100, 20_000)).unwrap();
        assert_eq!(cursor.read(&mut [0; 10]).unwrap(), LogRead::Gap(12_288 - 50));
        assert_eq!(drain(&mut cursor), (20_100 - 12_288, 0));
    }

    #[test]
    fn a_pipe_is_taken_over_files_without_a_gap() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open(directory.path(), "stdout", policy(4096, 3)).unwrap();
        file.append(&bytes(0, 1000)).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&bytes(1000, 9000)).unwrap();
        drop(writer);
        let mut taken = 0;
        loop {
            match file.take_from(&reader, 1500).unwrap() {
                0 => break,
                count => taken += count,
            }
        }
        assert_eq!((taken, file.end()), (9000, 10_000));
        let mut cursor = LogCursor::from_start(directory.path(), "stdout").unwrap();
        assert_eq!(drain(&mut cursor), (10_000, 0));
        let no_pipe = tempfile::tempfile().unwrap();
        let refused = file.take_from(&no_pipe, 10).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("stdout")).unwrap();
        assert!(RotatingFile::open(directory.path(), "stdout", policy(4096, 2)).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    /// Small files make a rotation out of every few writes: most listings are overtaken by one.
    #[test]
    fn a_writer_and_readers_at_once_lose_nothing_that_is_kept() {
        for (file_bytes, files) in [(16 << 10, 3), (4096, 1), (4096, 2), (4096, 5)] {
            let directory = tempfile::tempdir().unwrap();
            let total = 1_500_000u64;
            let path = directory.path().to_owned();
            let mut file = RotatingFile::open(&path, "stdout", policy(file_bytes, files)).unwrap();
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let mut cursor = LogCursor::from_start(&path, "stdout").unwrap();
                    std::thread::spawn(move || {
                        let (mut seen, mut missed) = (0, 0);
                        while seen + missed < total {
                            let (more, gone) = drain(&mut cursor);
                            seen += more;
                            missed += gone;
                        }
                        (seen, missed)
                    })
                })
                .collect();
            let mut at = 0;
            while at < total {
                let count = (total - at).min(777);
                file.append(&bytes(at, count as usize)).unwrap();
                at += count;
            }
            for reader in readers {
                let (seen, missed) = reader.join().unwrap();
                assert_eq!(seen + missed, total);
                assert!(seen > 0);
            }
        }
    }

    #[test]
    fn a_rotation_cut_short_hides_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut file = RotatingFile::open(directory.path(), "stdout", policy(4096, 3)).unwrap();
        file.append(&bytes(0, 10_000)).unwrap();
        // The writer died after `stdout.1` had moved on and before `stdout` did.
        fs::rename(at("stdout.1"), at("stdout.2")).unwrap();
        let mut cursor = LogCursor::at(directory.path(), "stdout", 4096).unwrap();
        assert_eq!(drain(&mut cursor), (10_000 - 4096, 0));
        let mut file = RotatingFile::open(directory.path(), "stdout", policy(4096, 3)).unwrap();
        assert_eq!(file.end(), 10_000);
        file.append(&bytes(10_000, 5_000)).unwrap();
        assert_eq!(drain(&mut cursor), (5_000, 0));
    }

    /// Found by fuzzing: the end of a file overflowed.
    #[test]
    fn an_absurd_offset_in_the_index_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("stdout"), bytes(0, 40)).unwrap();
        for text in [
            "next 18446744073709551615\n",
            "next 18446744073709551616\n",
            "next 9223372036854775807\n",
        ] {
            fs::write(at("stdout.index"), text).unwrap();
            let mut cursor = LogCursor::from_start(directory.path(), "stdout").unwrap();
            assert_eq!(drain(&mut cursor), (40, 0), "{text}");
        }
    }
}
