//! What is mounted where: /proc/<pid>/mountinfo (proc_pid_mountinfo(5)). Long on busy hosts, so not for a hot path.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One mount in our own mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    pub path: PathBuf,
    pub kind: String,
}

impl MountPoint {
    /// A file system through which the kernel itself, or a device, is set: root writes there, whatever it may do
    /// otherwise.
    pub fn is_control(&self) -> bool {
        const KINDS: [&str; 17] = [
            "proc",
            "sysfs",
            "cgroup",
            "cgroup2",
            "devtmpfs",
            "devpts",
            "debugfs",
            "tracefs",
            "securityfs",
            "selinuxfs",
            "configfs",
            "bpf",
            "pstore",
            "efivarfs",
            "fusectl",
            "binfmt_misc",
            "resctrl",
        ];
        KINDS.contains(&self.kind.as_str())
    }
}

/// All mounts, in the order in which they were made; of two at one place the later covers the earlier.
pub fn read() -> io::Result<Vec<MountPoint>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The same out of the text of that file; malformed lines are passed over.
pub fn parse(table: &[u8]) -> Vec<MountPoint> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescape(fields.nth(4)?);
    // Optional fields end with a lone hyphen.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountPoint {
        path: PathBuf::from(OsString::from_vec(path)),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Blanks and backslashes are written as three octal digits behind a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                text.push(byte);
                rest = &tail[3..];
            }
            _ => {
                text.push(first);
                rest = tail;
            }
        }
    }
    text
}

/// The first control file system that `path` lies in or that is mounted below it.
pub fn control_within<'a>(table: &'a [MountPoint], path: &Path) -> Option<&'a MountPoint> {
    let above = table.iter().filter(|mount| path.starts_with(&mount.path));
    // Of mounts at one place the last is in sight.
    let home = above.max_by_key(|mount| mount.path.as_os_str().len());
    home.filter(|mount| mount.is_control()).or_else(|| {
        let mut below = table
            .iter()
            .filter(|mount| mount.path.starts_with(path) && mount.path != path);
        below.find(|mount| mount.is_control())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        24 23 0:22 / /proc rw - proc proc rw\n\
        25 23 0:23 / /srv/a\\040b rw master:1 propagate_from:2 - cgroup cg rw,cpu\n\
        26 23 0:24 / /srv/data rw - tmpfs tmpfs rw\n\
        broken line\n";

    #[test]
    fn control_file_systems_are_found_above_and_below() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 4);
        assert_eq!(table[2].path, Path::new("/srv/a b"));
        let found = |path: &str| control_within(&table, Path::new(path)).map(|mount| mount.kind.as_str());
        assert_eq!(found("/proc/sys"), Some("proc"));
        assert_eq!(found("/proc"), Some("proc"));
        assert_eq!(found("/"), Some("proc"));
        assert_eq!(found("/srv"), Some("cgroup"));
        assert_eq!(found("/srv/data"), None);
        assert_eq!(found("/srv/data/x"), None);
        assert_eq!(found("/process"), None);
    }

    #[test]
    fn this_hosts_table_is_read() {
        let table = read().unwrap();
        assert!(table.iter().any(|mount| mount.kind == "proc"), "{table:?}");
    }
}
