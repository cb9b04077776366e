//! The index beside a container's rotated output, as a crash, a full disk or a person may leave it.
//!
//! Rules: a reader ends; it yields no more than what is kept; a writer can go on.

use std::fs;

use container::output::{LogCursor, LogRead, RotatingFile};
use model::OutputPolicy;

thread_local! {
    static DIRECTORY: tempfile::TempDir = tempfile::tempdir().expect("a scratch directory");
}

pub fn run(data: &[u8]) {
    DIRECTORY.with(|directory| {
        let directory = directory.path();
        let (offset, text) = crate::choice(data);
        let kept = b"four lines\nof output\nthat are\nkept\n";
        fs::write(directory.join("stdout.1"), kept).expect("write");
        fs::write(directory.join("stdout"), &kept[..4]).expect("write");
        fs::write(directory.join("stdout.index"), text).expect("write");
        for cursor in [
            LogCursor::from_start(directory, "stdout"),
            LogCursor::at(directory, "stdout", u64::from(offset)),
        ] {
            let Ok(mut cursor) = cursor else { continue };
            read(&mut cursor, kept.len() + 4);
        }
        if let Ok(mut file) = RotatingFile::open(directory, "stdout", OutputPolicy::default()) {
            let end = file.end();
            file.append(b"more").expect("append");
            assert_eq!(file.end(), end + 4);
        }
    });
}

fn read(cursor: &mut LogCursor, kept: usize) {
    let mut buffer = [0; 64];
    let mut total = 0;
    for _ in 0..16 {
        match cursor.read(&mut buffer) {
            Ok(LogRead::Data(count)) => total += count,
            Ok(LogRead::Gap(_)) => {}
            Ok(LogRead::End) | Err(_) => {
                assert!(total <= kept, "{total} bytes read of {kept}");
                return;
            }
        }
    }
    panic!("a reader that does not end");
}
