//! Ids, names, users and addresses: short texts that become paths, groups and host names.
//!
//! Rules: what is taken prints as itself; an id can't leave its directory; a user's number is never the one that means
//! "nobody in particular" to the kernel.

use client::Endpoint;
use container::plan::{GroupName, UserName};
use model::ids::NAME_BYTES_MAX;
use model::{ContainerId, ContainerName, LaunchSpec};

pub fn run(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    if let Ok(id) = text.parse::<ContainerId>() {
        assert_eq!(id.as_str(), text);
        assert!(text.parse::<ContainerName>().is_ok() && ContainerId::try_from(text.to_owned()).is_ok());
        let directory = std::path::Path::new("/parent");
        let path = directory.join(id.as_str());
        assert_eq!(path.parent(), Some(directory));
        assert_eq!(path.file_name(), Some(id.as_str().as_ref()));
        assert!(!text.is_empty() && text.len() <= NAME_BYTES_MAX && text.is_ascii());
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        let printed = endpoint.to_string();
        assert_eq!(printed.parse(), Ok(endpoint), "{printed:?}");
    }
    user(text);
}

/// Through the plan of a launch, as a user is read nowhere else.
fn user(text: &str) {
    let spec = LaunchSpec {
        command: vec!["true".to_owned()],
        user: Some(text.to_owned()),
        ..LaunchSpec::default()
    };
    let Ok(process) = crate::plan::of(&spec).map(|plan| plan.process) else {
        return;
    };
    let user = match process.user.expect("a user was named") {
        UserName::Id(id) => {
            assert!(id != u32::MAX);
            id.to_string()
        }
        UserName::Name(name) => {
            assert!(!name.is_empty() && !name.contains([':', '/', '\0', '\n']));
            name
        }
    };
    let group = process.group.map(|group| match group {
        GroupName::Id(id) => {
            assert!(id != u32::MAX);
            id.to_string()
        }
        GroupName::Name(name) => name,
    });
    let printed = match group {
        Some(group) => format!("{user}:{group}"),
        None => user,
    };
    // Leading zeros apart.
    if !text.split(':').any(|word| word.starts_with('0')) {
        assert_eq!(printed, text);
    }
}
