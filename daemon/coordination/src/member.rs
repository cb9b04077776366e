//! Members of a group: sequential znodes below one parent (pure).
//!
//! ZooKeeper counts below a parent, whatever the names before the number: members of all labels stand in one order. What has no
//! number at its end is no member (`log_replicas` beside the election's nodes).

use std::cmp::Ordering;

/// Of the election's nodes, whose text is JSON.
pub const ELECTION_LABEL: &str = "json.info";
/// Of Mesos up to 0.23: the same in protobuf.
pub const OLD_ELECTION_LABEL: &str = "info";
/// Below the election's path: where the log's replicas tell where they are.
pub const REPLICAS: &str = "log_replicas";

/// A znode `LABEL_NNNNNNNNNN` or `NNNNNNNNNN`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    name: String,
    sequence: u64,
}

impl Member {
    /// None when the name has no number at its end.
    pub fn parse(name: &str) -> Option<Self> {
        let tail = name.rsplit('_').next()?;
        let digits = !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_digit());
        let sequence = tail.parse().ok().filter(|_| digits)?;
        Some(Self {
            name: name.to_owned(),
            sequence,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What stands before the first underscore.
    pub fn label(&self) -> Option<&str> {
        self.name.split_once('_').map(|(label, _)| label)
    }
}

impl Ord for Member {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sequence
            .cmp(&other.sequence)
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Member {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The members among a parent's children, first come first.
pub fn members<'a>(children: impl IntoIterator<Item = &'a str>) -> Vec<Member> {
    let mut members: Vec<Member> = children.into_iter().filter_map(Member::parse).collect();
    members.sort();
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_all_labels_stand_in_one_order() {
        let found = members([
            "json.info_0000000012",
            "log_replicas",
            "info_0000000003",
            "0000000007",
            "json.info_",
            "x_-1",
            "x_+1",
        ]);
        let names: Vec<&str> = found.iter().map(Member::name).collect();
        assert_eq!(names, ["info_0000000003", "0000000007", "json.info_0000000012"]);
        let labels: Vec<Option<&str>> = found.iter().map(Member::label).collect();
        assert_eq!(labels, [Some("info"), None, Some("json.info")]);
        assert_eq!(found[2].sequence(), 12);
    }
}
