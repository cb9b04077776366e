//! Users and groups of a root file system: its own `etc/passwd` and `etc/group`, parsed by us. The C
//! library would ask the host's name services.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::Errno;

/// passwd(5), the fields that a process needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// The first account that `wanted` accepts. Malformed lines are passed over.
pub fn find_account(passwd: &str, wanted: impl Fn(&str, u32) -> bool) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next()?;
        let home = fields.next()?;
        wanted(name, uid).then(|| Account {
            name: name.to_owned(),
            uid,
            gid,
            home: home.to_owned(),
        })
    })
}

/// Name, gid and members of each group in group(5).
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

pub fn find_group(group: &str, name: &str) -> Option<u32> {
    groups(group)
        .find(|(known, _, _)| *known == name)
        .map(|(_, gid, _)| gid)
}

/// Groups that list `user` as a member.
pub fn supplementary_groups(group: &str, user: &str) -> Vec<u32> {
    let mut found: Vec<u32> = groups(group)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Makes a user and a group the owners of what `place` holds. By handle: by its name it could be a link to
/// something else by then.
pub fn give(place: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let at = place.as_raw_fd();
    // SAFETY: a descriptor, an empty string that ends in a null byte, and integers.
    let result = unsafe { libc::fchownat(at, c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken:x:1\n\nweb:x:33:34:www:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nssl:x:90:web,root\nlog:x:80:web\n";

    #[test]
    fn accounts_are_found_and_broken_lines_passed_over() {
        let web = find_account(PASSWD, |name, _| name == "web").unwrap();
        assert_eq!((web.uid, web.gid, web.home.as_str()), (33, 34, "/srv"));
        assert_eq!(find_account(PASSWD, |name, _| name == "broken"), None);
        assert_eq!(find_account(PASSWD, |_, uid| uid == 0).unwrap().name, "root");
        assert_eq!(find_group(GROUP, "ssl"), Some(90));
        assert_eq!(supplementary_groups(GROUP, "web"), [80, 90]);
    }
}
