//! Names that do not fit: pure.

use super::state::Row;
use crate::human;

/// Names for so many cells, each another one: where shortening makes two the same, ids tell them apart.
pub(super) fn short_names(rows: &[&Row], width: usize) -> Vec<String> {
    const ID_CELLS: usize = 8;
    let short: Vec<String> = rows
        .iter()
        .map(|row| human::cut_middle(row.label(), width))
        .collect();
    let is_unique = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    rows.iter()
        .zip(&short)
        .map(|(row, name)| match width.checked_sub(ID_CELLS) {
            Some(head) if !is_unique(name) => {
                let id = row.id().get(..ID_CELLS).unwrap_or(row.id());
                human::cut(row.label(), head) + id
            }
            _ => name.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use model::ContainerStatus;

    use super::super::sample::state;
    use super::*;

    #[test]
    fn long_names_stay_apart() {
        let mut several = state(false);
        let statuses = several.all().iter().map(|row| row.status.clone());
        let names = [
            "web-server-with-a-long-name-1",
            "web-server-with-a-long-name-2",
            "web-server-a-with-a-long-name",
            "web-server-b-with-a-long-name",
            "short",
        ];
        let named = statuses.zip(names).map(|(status, name)| ContainerStatus {
            name: Some(name.parse().unwrap()),
            ..status
        });
        several.take_containers(named.collect());
        let rows: Vec<&Row> = several.all().iter().collect();
        let short = short_names(&rows, 13);
        assert_eq!((short[0].as_str(), short[4].as_str()), ("web-se…name-1", "short"));
        assert!(short.iter().all(|name| name.chars().count() <= 13), "{short:?}");
        let different: std::collections::BTreeSet<_> = short.iter().collect();
        assert_eq!(different.len(), short.len(), "{short:?}");
    }
}
