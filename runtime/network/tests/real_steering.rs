//! Who reaches whom, on the real kernel.

mod harness;

use std::os::fd::OwnedFd;

use harness::*;
use support::eventually;
use support::network::start;

/// All of it with TCP and UDP, IPv4 and IPv6; what failed.
fn failures(cases: &[(&str, Option<&OwnedFd>, &str, &str, u16)], sizes: &[(Kind, usize)]) -> Vec<String> {
    let mut failures = Vec::new();
    for (name, netns, v4, v6, port) in cases {
        for address in [v4, v6] {
            for (kind, size) in sizes {
                if let Err(error) = ask(*netns, *kind, address, *port, *size) {
                    failures.push(format!("{name} {kind:?} {size} {address}: {error}"));
                }
            }
        }
    }
    failures
}

const USUAL: [(Kind, usize); 2] = [(Kind::Tcp, 300_000), (Kind::Udp, 1000)];

#[test]
fn everyone_reaches_everyone_by_port() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    echo_server(Some(&one.netns), one.port);
    echo_server(Some(&two.netns), two.port);
    echo_server(None, 8080);
    echo_server(Some(&world.outside), 9090);
    let (outside, a, b) = (Some(&world.outside), Some(&one.netns), Some(&two.netns));
    let cases = [
        ("outside to one", outside, HOST, HOST6, one.port),
        ("outside to two", outside, HOST, HOST6, two.port),
        ("outside to host", outside, HOST, HOST6, 8080),
        ("host to outside", None, OUTSIDE, OUTSIDE6, 9090),
        ("host to one", None, HOST, HOST6, one.port),
        ("one to outside", a, OUTSIDE, OUTSIDE6, 9090),
        ("one to host", a, HOST, HOST6, 8080),
        ("one to two", a, HOST, HOST6, two.port),
        ("two to one", b, HOST, HOST6, one.port),
        ("one to itself", a, HOST, HOST6, one.port),
        ("one's loopback", a, "127.0.0.1", "::1", one.port),
    ];
    let failed = failures(&cases, &USUAL);
    assert!(failed.is_empty(), "{}", failed.join("\n"));

    // Datagrams that are larger than the uplink's MTU: fragments on the wire, whole ones within the host.
    let failed = failures(&cases, &[(Kind::Udp, 9_000), (Kind::Udp, 60_000)]);
    assert!(failed.is_empty(), "large datagrams:\n{}", failed.join("\n"));

    let usage = datapath.usage_all().unwrap();
    let of_one = &usage[&one.id];
    assert!(
        of_one.rx.bytes > 1_000_000 && of_one.tx.bytes > 1_000_000,
        "{of_one:?}"
    );
    assert!(of_one.rx.packets > 10 && of_one.tx.packets > 10, "{of_one:?}");
    // What the kernel says of itself when an interface comes up (MLD) is refused; nothing else was.
    assert!(
        of_one
            .drops
            .keys()
            .all(|reason| reason == "foreign_source_address" || reason == "icmp"),
        "{of_one:?}"
    );

    datapath.detach(&one.id).unwrap();
    datapath.detach(&one.id).unwrap();
    assert!(
        ask(outside, Kind::Tcp, HOST, one.port, 10).is_err(),
        "still there after detach"
    );
    assert!(ask(outside, Kind::Tcp, HOST, two.port, 10).is_ok());
    let pins = world.pins.clone();
    datapath.close(false).unwrap();
    assert_eq!(std::fs::read_dir(&pins).unwrap().count(), 0);
    drop(two);
    assert_nothing_is_left();
}

/// The host keeps no interface, qdisc or program of ours.
fn assert_nothing_is_left() {
    let links = on_host_ok("ip -o link");
    assert!(!links.contains("bht-"), "{links}");
    let qdiscs = on_host_ok("tc qdisc show dev up0; tc filter show dev up0 ingress");
    assert!(!qdiscs.contains("clsact") && !qdiscs.contains("bpf"), "{qdiscs}");
}

#[test]
fn real_programs_talk() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let one = attach(&datapath, 1);
    let listening = format!(
        "python3 -m http.server --bind :: {} >/dev/null 2>&1 & echo $!",
        one.port
    );
    let server = inside_ok(&one.netns, &listening);
    let fetch = format!(
        "for i in $(seq 50); do curl -sf -m 3 -o /dev/null http://{HOST}:{0}/ && break; sleep 0.1; done; \
         curl -sf -m 3 -o /dev/null http://[{HOST6}]:{0}/",
        one.port
    );
    inside_ok(&world.outside, &fetch);
    on_host_ok(&format!("kill {}", server.trim()));
    if on_host("command -v iperf3").status.success() {
        let port = one.port + 1;
        let _server = start(&one.netns, &format!("iperf3 -s -p {port}"));
        eventually("the server answers", || {
            // With -J its status is 0 whatever happened.
            let said = text(&inside(
                &world.outside,
                &format!("iperf3 -c {HOST} -p {port} -t 1 -R -J"),
            ));
            said.contains("sum_received").then_some(())
        });
    }
    datapath.close(false).unwrap();
}
