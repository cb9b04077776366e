//! Ids and users as an attacker would choose them: through the rules of the `names` target, and named here one by one.

use fuzz_targets::{names, plan};
use model::{ContainerId, ContainerName, FaultKind, LaunchSpec};
use proptest::prelude::*;

/// Texts near to what is allowed: the pieces of paths, users and ids.
fn near() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("/".to_owned()),
        Just(":".to_owned()),
        Just("\0".to_owned()),
        Just("\n".to_owned()),
        Just("4294967295".to_owned()),
        Just("root".to_owned()),
        "[a-zA-Z0-9._-]{1,70}",
        "[0-9]{1,12}",
        "\\PC{1,4}",
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn near_texts_keep_the_rules(text in near()) {
        names::run(text.as_bytes());
    }

    #[test]
    fn any_text_keeps_the_rules(text in any::<String>()) {
        names::run(text.as_bytes());
    }

    /// An id is one part of a path: nothing that is more, or less, is one.
    #[test]
    fn what_is_no_file_name_is_no_id(text in near()) {
        let one_part = !text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != "..";
        prop_assert!(one_part || text.parse::<ContainerId>().is_err());
        prop_assert_eq!(text.parse::<ContainerId>().is_ok(), text.parse::<ContainerName>().is_ok());
    }
}

#[test]
fn ids_that_would_leave_their_directory_are_refused() {
    let long = "a".repeat(300);
    for bad in [
        "",
        ".",
        "..",
        "../x",
        "x/..",
        "/",
        "/etc",
        "a/b",
        "a\0",
        "\0",
        "a\n",
        " a",
        "a ",
        "-a",
        ".a",
        "_a",
        "ä",
        "a:b",
        "a*",
        &long,
        &"a".repeat(65),
        "\u{202e}a",
        "a\u{0}/../../b",
    ] {
        assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        assert!(ContainerName::try_from(bad.to_owned()).is_err(), "{bad:?}");
    }
}

fn with_user(user: &str) -> Result<container::plan::ProcessPlan, model::Fault> {
    let spec = LaunchSpec {
        command: vec!["true".to_owned()],
        user: Some(user.to_owned()),
        ..LaunchSpec::default()
    };
    plan::of(&spec).map(|plan| plan.process)
}

#[test]
fn users_that_mean_nobody_or_two_are_refused_by_name() {
    for bad in [
        "",
        ":",
        "a:",
        ":a",
        "a:b:c",
        "4294967295",
        "0:4294967295",
        "4294967296",
        "99999999999999999999",
        "a b",
        "a/b",
        "a,b",
        "a\0b",
        "a\nb",
        "\u{a0}",
        "a:\t",
    ] {
        let fault = with_user(bad).expect_err(bad);
        assert_eq!(
            (fault.kind, fault.field.as_deref()),
            (FaultKind::Invalid, Some("user")),
            "{bad:?}"
        );
    }
}

#[test]
fn users_are_taken_in_every_form() {
    use container::plan::{GroupName, UserName};
    let name = |text: &str| UserName::Name(text.to_owned());
    for (text, user, group) in [
        ("web", name("web"), None),
        ("0", UserName::Id(0), None),
        ("4294967294", UserName::Id(4_294_967_294), None),
        ("1000:1001", UserName::Id(1000), Some(GroupName::Id(1001))),
        ("web:1001", name("web"), Some(GroupName::Id(1001))),
        (
            "1000:www",
            UserName::Id(1000),
            Some(GroupName::Name("www".to_owned())),
        ),
        // Not a number to passwd(5), so not to us.
        ("+1", name("+1"), None),
        ("-1", name("-1"), None),
        ("0x0", name("0x0"), None),
    ] {
        let process = with_user(text).unwrap();
        assert_eq!((process.user, process.group), (Some(user), group), "{text:?}");
    }
}
