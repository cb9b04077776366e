//! Parsers of kernel text take any bytes without a panic, and agree with the plain way of saying it.

use kernel::cgroup::cpuset::{is_within, parse_list};
use kernel::cgroup::{Compare, Mounts, io, memory, pressure};
use kernel::file::{for_each_keyed, keyed, number};
use proptest::prelude::*;

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = number(&bytes);
        for_each_keyed(&bytes, |_, _| {});
        let _ = io::parse_v1(&bytes);
        let _ = io::parse_v2(&bytes);
        let _ = memory::parse_limit(&bytes);
        let _ = pressure::parse(&text);
        let _ = parse_list(&text);
        let _ = Mounts::parse(&text);
        for compare in [Compare::Exact, Compare::Pages { page: 4096 }, Compare::List, Compare::Line] {
            let _ = compare.agrees(&text, "1");
            let _ = compare.agrees("1", &text);
        }
    }

    #[test]
    fn near_mount_tables_never_panic(text in "([0-9a-z /,=\\\\:-]|cgroup2? |\n| - ){0,60}") {
        let _ = Mounts::parse(&text);
    }

    #[test]
    fn flat_keyed_files_round_trip(pairs in proptest::collection::btree_map("[a-z_]{1,12}", any::<u64>(), 0..40)) {
        let text: String = pairs.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
        let mut seen = Vec::new();
        for_each_keyed(text.as_bytes(), |key, value| {
            seen.push((String::from_utf8(key.to_vec()).unwrap(), value));
        });
        prop_assert_eq!(&seen, &pairs.iter().map(|(k, v)| (k.clone(), *v)).collect::<Vec<_>>());
        for (key, value) in &pairs {
            prop_assert_eq!(keyed(text.as_bytes(), key), Some(*value));
        }
    }

    #[test]
    fn lists_mean_their_numbers(numbers in proptest::collection::btree_set(0u32..200, 1..60)) {
        let text = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let list = parse_list(&text).unwrap();
        let back: std::collections::BTreeSet<u32> = list.iter().flat_map(|(a, b)| *a..=*b).collect();
        prop_assert_eq!(&back, &numbers);
        let ranges = list.iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>().join(",");
        prop_assert!(Compare::List.agrees(&text, &ranges));
        for n in 0..200 {
            prop_assert_eq!(is_within(&[(n, n)], &list), numbers.contains(&n));
        }
    }

    #[test]
    fn a_page_rounded_limit_is_recognised(bytes in 0u64..(1 << 60)) {
        let compare = Compare::Pages { page: 4096 };
        prop_assert!(compare.agrees(&bytes.to_string(), &(bytes / 4096 * 4096).to_string()));
        prop_assert!(!compare.agrees(&bytes.to_string(), &(bytes / 4096 * 4096 + 4096).to_string()));
    }
}
