//! `etc/passwd` and `etc/group` of a root file system that somebody else made.
//!
//! Rules: an account that is found is one that was asked for; groups are sorted and without doubles.

use kernel::account::{find_account, find_group, supplementary_groups};

pub fn run(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    // The name is what stands before the first line end; the file is the rest.
    let (name, file) = text.split_once('\n').unwrap_or(("root", text));
    if let Some(account) = find_account(file, |known, _| known == name) {
        assert_eq!(account.name, name);
        assert!(!account.home.contains(':') && !account.home.contains('\n'));
    }
    if let Some(account) = find_account(file, |_, uid| uid == 0) {
        assert_eq!(account.uid, 0);
    }
    let _ = find_group(file, name);
    let groups = supplementary_groups(file, name);
    assert!(groups.windows(2).all(|pair| pair[0] < pair[1]));
}
