//! The arithmetic of resources, and how they are written.

use model::resources::{Amount, Attributes, DiskInfo, Ranges, Resource, Resources, Role, Scalar, VolumeInfo};
use proptest::prelude::*;

fn resources(text: &str) -> Resources {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn tenths_add_up() {
    let mut sum = Resources::default();
    for _ in 0..10 {
        sum.add_all(&resources("cpus:0.1"));
    }
    assert_eq!(sum, resources("cpus:1"));
    assert_eq!(sum.to_string(), "cpus:1");
    assert_eq!(Scalar::from_f64(0.1 + 0.2), Scalar::from_f64(0.3));
}

#[test]
fn what_operators_write_is_understood() {
    let all = resources(
        "cpus:24;gpus:2;mem:24576;disk:409600;ports:[21000-24000,30000-34000];bugs(debug_role):{a,b,c}",
    );
    assert_eq!(all.total("cpus"), Scalar::from_milli(24_000));
    assert_eq!(all.ports().count(), 3001 + 4001);
    let bugs = all.reserved_for(&"debug_role".parse().unwrap());
    assert_eq!(bugs.to_string(), "bugs(debug_role):{a,b,c}");
    assert_eq!(all.unreserved().iter().count(), 5);
    // Spaces and line ends, an empty part, one role for everybody.
    assert_eq!(
        resources(" cpus : 4 ; mem(*):1 ;\n ports : [ 1 - 3 , 5 ] ;"),
        resources("cpus:4;mem:1;ports:[1-3,5-5]")
    );
    assert_eq!(resources("ports:[5-6,1-2,3-4]").ports().intervals(), [(1, 6)]);
}

#[test]
fn what_is_wrong_is_told_with_the_part_that_is() {
    for (text, part) in [
        ("cpus", "is no resource"),
        ("cpus:", "is no amount"),
        ("cpus:four", "is no amount"),
        ("cpus:-1", "is no amount"),
        ("cpus:1e3", "is no amount"),
        ("cpus:inf", "is no amount"),
        ("cpus:.", "is no amount"),
        ("mem:1;cpus:[1-2]", "has to be a number"),
        ("ports:31000", "has to be ranges"),
        ("ports:[2-1]", "ends before it begins"),
        ("ports:[1-x]", "are no ranges"),
        ("gpus:1.5", "has to be whole"),
        ("a:{x,y", "without its end"),
        ("x:1;x:[1-2]", "another kind"),
        ("cpus(/web):1", "is no role"),
        ("cpus(web:1", "is no resource"),
        (":1", "has no good name"),
        ("cpus:99999999999999999999", "is no amount"),
    ] {
        let error = text.parse::<Resources>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn roles_are_paths() {
    let role = |text: &str| text.parse::<Role>();
    for good in ["*", "web", "eng/web/front", "a.b", "a-b"] {
        assert!(role(good).is_ok(), "{good}");
    }
    for bad in [
        "", "/a", "a/", "a//b", "a/./b", "..", "a/*", "-a", "a b", "a\tb", "a/-b", "a\u{8}",
    ] {
        assert!(role(bad).is_err(), "{bad}");
    }
    let (eng, web, other) = (
        role("eng").unwrap(),
        role("eng/web").unwrap(),
        role("engine").unwrap(),
    );
    assert!(
        web.is_strictly_within(&eng) && web.is_within(&web) && !eng.is_within(&web) && !other.is_within(&eng)
    );
    let reserved: Resource = "cpus(eng):1".parse().unwrap();
    assert!(reserved.is_for(&web) && reserved.is_for(&eng) && !reserved.is_for(&other));
}

fn volume(id: &str) -> Resource {
    let mut volume: Resource = "disk(web):100".parse().unwrap();
    let info = VolumeInfo {
        id: id.into(),
        principal: None,
        container_path: "data".into(),
    };
    volume.disk = Some(DiskInfo {
        volume: Some(info),
        source: None,
    });
    volume
}

#[test]
fn volumes_are_whole_and_never_become_one() {
    let mut all = resources("disk(web):500");
    all.add(volume("a"));
    all.add(volume("b"));
    assert_eq!(all.iter().count(), 3);
    let mut part = volume("a");
    part.amount = Amount::Scalar(Scalar::from_milli(50_000));
    assert!(!all.take(&part), "half a volume");
    assert!(all.take(&volume("a")) && !all.take(&volume("a")));
    assert_eq!(all.total("disk"), Scalar::from_milli(600_000));
}

#[test]
fn what_can_not_be_is_refused() {
    let mut unreserved = volume("a");
    unreserved.reservations.clear();
    assert!(unreserved.check().unwrap_err().problem.contains("not reserved"));
    let mut revocable = volume("a");
    revocable.revocable = true;
    assert!(revocable.check().unwrap_err().problem.contains("revocable"));
    let mut stacked: Resource = "cpus(eng):1".parse().unwrap();
    let mut second = stacked.reservations[0].clone();
    second.fixed = false;
    second.role = "web".parse().unwrap();
    stacked.reservations.push(second);
    assert!(stacked.check().unwrap_err().problem.contains("not below"));
}

#[test]
fn attributes_are_words_numbers_and_ranges() {
    let text = "rack:abc;zone:west;os:centos5;level:10;keys:[1000-1500]";
    let attributes: Attributes = text.parse().unwrap();
    assert_eq!(attributes.to_string(), text);
    assert!("rack".parse::<Attributes>().is_err() && "rack:".parse::<Attributes>().is_err());
}

fn some_ranges() -> impl Strategy<Value = Ranges> {
    proptest::collection::vec((0u64..60, 0u64..12), 0..8).prop_map(|list| {
        Ranges::new(list.into_iter().map(|(begin, length)| (begin, begin + length))).unwrap()
    })
}

fn some_resources() -> impl Strategy<Value = Resources> {
    let scalar = (
        prop_oneof![Just("cpus"), Just("mem")],
        prop_oneof![Just(""), Just("(a)"), Just("(a/b)")],
        0u64..5000,
    )
        .prop_map(|(name, role, milli)| {
            format!("{name}{role}:{}", Scalar::from_milli(milli))
                .parse()
                .unwrap()
        });
    let ports = some_ranges().prop_map(|ranges| Resource::new("ports", Amount::Ranges(ranges)));
    proptest::collection::vec(prop_oneof![3 => scalar, 1 => ports], 0..6).prop_map(Resources::from)
}

proptest! {
    #[test]
    fn ranges_are_sets_of_numbers(a in some_ranges(), b in some_ranges()) {
        let (sum, difference) = (a.plus(&b), a.minus(&b));
        for number in 0..80 {
            prop_assert_eq!(sum.holds(number), a.holds(number) || b.holds(number));
            prop_assert_eq!(difference.holds(number), a.holds(number) && !b.holds(number));
        }
        prop_assert_eq!(a.contains(&b), (0..80).all(|number| !b.holds(number) || a.holds(number)));
        prop_assert_eq!(a.count(), (0..80).filter(|number| a.holds(*number)).count() as u64);
        // In the one form that each set of numbers has.
        prop_assert_eq!(Ranges::new(difference.intervals().iter().copied()).unwrap(), difference);
        prop_assert_eq!(a.to_string().parse::<Ranges>().unwrap(), a);
    }

    #[test]
    fn what_was_added_can_be_taken(a in some_resources(), b in some_resources()) {
        let mut sum = a.clone();
        sum.add_all(&b);
        prop_assert!(sum.contains(&b));
        prop_assert_eq!(sum.total("cpus"), a.total("cpus").plus(b.total("cpus")));
        let mut other = b.clone();
        other.add_all(&a);
        prop_assert_eq!(&sum, &other);
        // Ports are sets: what both have is gone with one of them.
        let apart = a.ports().minus(&b.ports()) == a.ports();
        prop_assert!(sum.take_all(&b));
        if apart {
            prop_assert_eq!(sum, a);
        }
    }

    #[test]
    fn taking_too_much_changes_nothing(a in some_resources(), b in some_resources()) {
        let mut left = a.clone();
        if !left.take_all(&b) {
            prop_assert_eq!(left, a);
        }
    }

    #[test]
    fn what_is_shown_is_understood(a in some_resources()) {
        prop_assert_eq!(a.to_string().parse::<Resources>().unwrap(), a);
    }

    #[test]
    fn no_text_is_a_panic(text in "\\PC*") {
        let _ = text.parse::<Resources>();
        let _ = text.parse::<Attributes>();
    }
}
