//! A replica's disk on which somebody has changed bytes: three segments, and changes as triples of place and value.
//!
//! Rules: a start never panics; what can be read is what was written; changes within the written sectors of values are told, or
//! the value is not given out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use replog::{Directory, Entry, File, Options, Store};

const OPTIONS: Options = Options {
    segment_bytes: 8 << 10,
    new_id: 7,
};
const VALUES: u64 = 24;

type Content = Rc<RefCell<Vec<u8>>>;

#[derive(Clone, Default)]
struct Memory(Rc<RefCell<BTreeMap<String, Content>>>);

struct OpenFile(Content);

impl Directory for Memory {
    type File = OpenFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().keys().cloned().collect())
    }

    fn create(&self, name: &str, length: u64) -> io::Result<OpenFile> {
        let content = Rc::new(RefCell::new(vec![0; length as usize]));
        self.0.borrow_mut().insert(name.to_owned(), Rc::clone(&content));
        Ok(OpenFile(content))
    }

    fn open(&self, name: &str) -> io::Result<OpenFile> {
        let files = self.0.borrow();
        files
            .get(name)
            .map(|content| OpenFile(Rc::clone(content)))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.open(name).map(|file| file.0.borrow().clone())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.borrow_mut();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.borrow_mut().remove(name);
        Ok(())
    }
}

impl File for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.0.borrow();
        let bytes = content.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.0.borrow_mut();
        let place = content.get_mut(offset as usize..offset as usize + bytes.len());
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn value(position: u64) -> Vec<u8> {
    vec![position as u8; 600 + position as usize]
}

fn written() -> Memory {
    let disk = Memory::default();
    let (mut store, _) = Store::open(disk.clone(), OPTIONS).expect("a new store");
    store.append(&[Entry::Meta(b"meta")]).expect("room");
    for position in 1..=VALUES {
        let bytes = value(position);
        let entry = Entry::Value {
            position,
            flags: 1,
            bytes: &bytes,
        };
        store.append(&[entry]).expect("room");
    }
    disk
}

pub fn run(data: &[u8]) {
    let disk = written();
    let files: Vec<Content> = disk.0.borrow().values().cloned().collect();
    let mut changes = 0;
    for change in data.chunks_exact(4) {
        let file = &files[usize::from(change[0]) % files.len()];
        let mut content = file.borrow_mut();
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % content.len();
        changes += usize::from(change[3] != 0);
        content[at] ^= change[3];
    }
    let Ok((store, recovered)) = Store::open(disk.clone(), OPTIONS) else {
        assert!(changes > 0);
        return;
    };
    if changes == 0 {
        assert!(recovered.damage.is_empty(), "{recovered:?}");
        assert_eq!(store.positions().count() as u64, VALUES);
    }
    for (position, _) in store.positions() {
        if let Ok(bytes) = store.read(position) {
            assert!(
                bytes == value(position),
                "position {position} is not what was written"
            );
        }
    }
    let _ = store.verify();
    let damage = recovered.damage;
    let Ok((store, again)) = store.repair(&damage, b"again", u64::MAX) else {
        return;
    };
    assert!(again.damage.is_empty(), "{damage:?}, then {again:?}");
    assert_eq!(store.meta(), b"again");
    for (position, _) in store.positions() {
        if let Ok(bytes) = store.read(position) {
            assert!(bytes == value(position), "position {position} after the repair");
        }
    }
}
