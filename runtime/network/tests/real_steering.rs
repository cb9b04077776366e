//! Who reaches whom, on the real kernel.

mod harness;

use harness::*;

#[test]
fn everyone_reaches_everyone_by_port() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    let _servers = [
        echo_server(Some(&one.netns), one.port),
        echo_server(Some(&two.netns), two.port),
        echo_server(None, 8080),
        echo_server(Some(&world.outside), 9090),
    ];
    let mut failures = Vec::new();
    let cases = [
        ("outside to one", Some(&world.outside), HOST, HOST6, one.port),
        ("outside to two", Some(&world.outside), HOST, HOST6, two.port),
        ("outside to host", Some(&world.outside), HOST, HOST6, 8080),
        ("host to outside", None, OUTSIDE, OUTSIDE6, 9090),
        ("host to one", None, HOST, HOST6, one.port),
        ("one to outside", Some(&one.netns), OUTSIDE, OUTSIDE6, 9090),
        ("one to host", Some(&one.netns), HOST, HOST6, 8080),
        ("one to two", Some(&one.netns), HOST, HOST6, two.port),
        ("two to one", Some(&two.netns), HOST, HOST6, one.port),
        ("one to itself", Some(&one.netns), HOST, HOST6, one.port),
        ("one's loopback", Some(&one.netns), "127.0.0.1", "::1", one.port),
    ];
    for (name, netns, v4, v6, port) in cases {
        for address in [v4, v6] {
            for (kind, size) in [("tcp", 100_000), ("udp", 1000)] {
                let output = ask(netns, kind, address, port, size);
                if !output.status.success() {
                    failures.push(format!("{name} {kind} {address}: {}", text(&output)));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    datapath.close(false).unwrap();
}
