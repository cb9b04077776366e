//! Ports: how they are written, and the arithmetic of ranges against that of sets.

use std::collections::BTreeSet;

use model::{PortError, PortGrant, PortRange, PortRanges, PortRequest};
use proptest::prelude::*;

fn ranges(text: &str) -> PortRanges {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn both_forms_are_read_and_written() {
    let ports = ranges("[31000-32000,32002-32002]");
    assert_eq!(ports.to_string(), "31000-32000,32002");
    assert_eq!(ports.mesos(), "[31000-32000,32002-32002]");
    assert_eq!(ports, ranges("32002, 31000-32000"));
    assert_eq!(ranges("5,3-4,1-2").to_string(), "1-5");
    assert_eq!(
        (ranges("[]"), ranges("")),
        (PortRanges::default(), PortRanges::default())
    );
    assert_eq!(ranges("1-65535").count(), 65_535);
    assert!(ranges("65535").contains(65_535) && !ranges("65535").contains(65_534));
}

#[test]
fn what_is_no_port_is_refused() {
    for text in [
        "0", "0-5", "65536", "1-65536", "a", "1-", "-1", "1-2-3", "+5", "[1-2", "1 2", "٣",
    ] {
        assert!(
            matches!(text.parse::<PortRanges>(), Err(PortError::Number(_))),
            "{text:?}: {:?}",
            text.parse::<PortRanges>()
        );
    }
    assert!(matches!("9-3".parse::<PortRanges>(), Err(PortError::Backward(_))));
}

#[test]
fn a_small_number_is_a_count_and_a_large_one_a_port() {
    let request = |text: &str| text.parse::<PortRequest>();
    assert_eq!(request("2"), Ok(PortRequest::Any(2)));
    assert_eq!(request("1023"), Ok(PortRequest::Any(1023)));
    assert_eq!(request("1024"), Ok(PortRequest::These(ranges("1024"))));
    assert_eq!(
        request("31005,31010-31012"),
        Ok(PortRequest::These(ranges("31005,31010-31012")))
    );
    assert_eq!(request("80-80"), Ok(PortRequest::These(ranges("80"))));
    assert_eq!(request("80,443"), Ok(PortRequest::These(ranges("80,443"))));
    assert_eq!(request("row:4"), Ok(PortRequest::Row(4)));
    assert_eq!(
        request("[31000-31001]"),
        Ok(PortRequest::These(ranges("31000-31001")))
    );
    assert_eq!(
        (request("0"), request("row:0")),
        (Err(PortError::Empty), Err(PortError::Empty))
    );
    assert_eq!(request("row:70000"), Err(PortError::TooMany(70_000)));
    assert_eq!(request(""), Err(PortError::Empty));
    assert!(matches!(request("31005,31000-31010"), Err(PortError::Twice(_))));
    assert!(matches!(request("70000"), Err(PortError::Number(_))));
}

#[test]
fn a_command_finds_its_ports() {
    let grant = PortGrant {
        allotted: ranges("31005,31010-31011"),
        ephemeral: PortRange::new(61_440, 62_463),
    };
    let environment = grant.environment();
    let value = |name: &str| {
        let found = environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(
        (value("PORT0"), value("PORT1"), value("PORT2")),
        (Some("31005"), Some("31010"), Some("31011"))
    );
    assert_eq!((value("PORT"), value("PORT3")), (Some("31005"), None));
    assert_eq!(value("PORTS"), Some("31005,31010,31011"));
    assert_eq!(value("BULKHEAD_PORTS"), Some("31005,31010-31011"));
    assert_eq!(PortGrant::default().environment(), []);
    // A whole pool does not fill the environment.
    let all = PortGrant {
        allotted: ranges("1-65535"),
        ephemeral: None,
    };
    let bytes: usize = all
        .environment()
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert!(bytes < 8192, "{bytes}");
}

fn some_ranges() -> impl Strategy<Value = PortRanges> {
    // Close together, and at both ends.
    let port = prop_oneof![1u16..40, 65_500u16..=65_535];
    let range = (port.clone(), port).prop_map(|(a, b)| {
        let (first, last) = (a.min(b), a.max(b));
        PortRange::new(first, if last - first > 50 { first } else { last }).unwrap()
    });
    proptest::collection::vec(range, 0..8).prop_map(PortRanges::from)
}

fn set(ranges: &PortRanges) -> BTreeSet<u16> {
    ranges.ports().collect()
}

proptest! {
    #[test]
    fn ranges_are_sets(a in some_ranges(), b in some_ranges()) {
        let (x, y) = (set(&a), set(&b));
        prop_assert_eq!(set(&a.plus(&b)), &x | &y);
        prop_assert_eq!(set(&a.minus(&b)), &x - &y);
        prop_assert_eq!(set(&a.common(&b)), &x & &y);
        prop_assert_eq!(a.overlaps(&b), !x.is_disjoint(&y));
        prop_assert_eq!(a.contains_all(&b), x.is_superset(&y));
        prop_assert_eq!(a.count() as usize, x.len());
        for ranges in [a.plus(&b), a.minus(&b), a.common(&b)] {
            let apart = ranges.ranges().windows(2).all(|two| u32::from(two[0].last()) + 1 < u32::from(two[1].first()));
            prop_assert!(apart, "{}", ranges);
        }
    }

    #[test]
    fn what_is_written_is_read(a in some_ranges()) {
        prop_assert_eq!(a.to_string().parse::<PortRanges>().unwrap(), a.clone());
        prop_assert_eq!(a.mesos().parse::<PortRanges>().unwrap(), a.clone());
        if !a.is_empty() {
            let request = PortRequest::These(a);
            prop_assert_eq!(request.to_string().parse::<PortRequest>().unwrap(), request);
        }
    }

    #[test]
    fn no_text_panics(text in "[0-9,\\[\\]: -]{0,12}|.{0,12}") {
        let _ = text.parse::<PortRanges>();
        if let Ok(request) = text.parse::<PortRequest>() {
            prop_assert_eq!(request.to_string().parse::<PortRequest>().unwrap(), request);
        }
    }
}
