//! Containers behind the host's address: an agent in a namespace that plays the host, and another that is outside.

use support::network::{HOST, NetworkWorld, configure, run, start, within};
use support::{Agent, eventually, skip_unless_root};

use crate::stage::{FEW, POOL, Stage};

#[test]
fn a_server_is_reached_from_outside_through_an_agents_death() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    let port = stage.serve("web");
    stage.reaches(HOST, port);
    stage.reaches("[2001:db8::1]", port);
    assert_eq!(
        stage.fetch(&stage.world.host, HOST, port).as_deref(),
        Some("hello\n")
    );
    let before = stage.statistics("web");
    assert!(before["net_rx_bytes"].as_u64() > Some(100), "{before}");
    assert!(before["net_tx_bytes"].as_u64() > Some(100), "{before}");
    assert_eq!(before["net_ephemeral_ports"]["begin"].as_u64(), Some(61440));
    stage.agent.kill_hard();
    // Nobody is there, and it answers.
    stage.reaches(HOST, port);
    let (agent, world) = (&mut stage.agent, &stage.world);
    within(&world.host, || agent.spawn());
    stage.reaches(HOST, port);
    let after = stage.statistics("web");
    assert!(
        after["net_rx_bytes"].as_u64() > before["net_rx_bytes"].as_u64(),
        "{before} {after}"
    );
    // The next one gets other ports, and reaches this one by the address that both have.
    let second = stage.serve("second");
    assert_ne!(second, port);
    let get = format!("curl --silent --max-time 2 http://{HOST}:{port}/");
    let got = stage.agent.cli(&["exec", "second", "--", "sh", "-c", &get]);
    assert_eq!(got.success().stdout, "hello\n");
    stage.agent.cli(&["kill", "web"]).success();
    eventually("its port is closed", || {
        stage
            .fetch(&stage.world.outside, HOST, port)
            .is_none()
            .then_some(())
    });
}

#[test]
fn nothing_is_left_of_a_network_that_nobody_uses() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    let pins = stage.agent.runtime_dir().join("bpf");
    assert!(!pins.exists(), "nobody has asked for a network yet");
    stage.serve("web");
    assert_eq!(stage.interfaces().len(), 1, "{:?}", stage.interfaces());
    stage.restart();
    assert_eq!(stage.interfaces().len(), 1, "{:?}", stage.interfaces());
    stage.agent.cli(&["kill", "web"]).success();
    eventually("its interface is gone", || {
        stage.interfaces().is_empty().then_some(())
    });
    // An agent that stops before the end of its clean-up leaves the network to the next one.
    eventually("the container has ended", || {
        let running = stage.agent.cli(&["ps"]).success().stdout;
        (!running.contains("web")).then_some(())
    });
    stage.agent.stop();
    assert!(!pins.exists());
    let tcx = run(&stage.world.host, "tc filter show dev uplink ingress");
    assert!(tcx.stdout.is_empty(), "{tcx:?}");
}

#[test]
fn what_a_killed_agent_had_begun_is_taken_away() {
    if skip_unless_root() {
        return;
    }
    for step in [
        "fork.plan",
        "fork.pipes",
        "fork.identity",
        "checkpoint.write",
        "gate.open",
    ] {
        let world = NetworkWorld::new();
        let environment = [("BULKHEAD_FAILPOINTS", format!("{step}=die"))];
        let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let agent = within(&world.host, || Agent::start_with(&[POOL, FEW], &environment));
        let mut stage = Stage { agent, world };
        let run = [
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "mapped",
            "--ports",
            "31000-31000",
            "--",
            "sleep",
            "1000",
        ];
        assert_ne!(stage.agent.cli(&run).status, 0, "{step}");
        stage.agent.wait_for_death();
        stage.agent.set_environment(&[]);
        let (agent, world) = (&mut stage.agent, &stage.world);
        within(&world.host, || agent.spawn());
        eventually("nothing is left of the launch", || {
            stage.interfaces().is_empty().then_some(())
        });
        // Its port can be had.
        stage.agent.cli(&run).success();
    }
}

#[test]
fn an_uplink_that_changes_is_followed_at_once() {
    if skip_unless_root() {
        return;
    }
    let world = NetworkWorld::new();
    // Nothing is looked at by itself while this lasts.
    let flags = [POOL, FEW, "--sample-interval=1h"];
    let agent = within(&world.host, || Agent::start_with(&flags, &[]));
    let stage = Stage { agent, world };
    let port = stage.serve("web");
    stage.reaches(HOST, port);
    let host = &stage.world.host;
    for command in [
        "ip addr del 192.0.2.1/24 dev uplink",
        "ip addr add 192.0.2.7/24 dev uplink",
        "ip route add default via 192.0.2.2",
    ] {
        configure(host, command);
    }
    stage.reaches("192.0.2.7", port);
    assert_eq!(stage.fetch(host, "192.0.2.7", port).as_deref(), Some("hello\n"));
    configure(host, "ip link set uplink down");
    configure(host, "ip link set uplink up");
    configure(host, "ip route add default via 192.0.2.2");
    stage.reaches("192.0.2.7", port);
    configure(host, "ip link set uplink mtu 1400");
    eventually("the container's interface has the uplink's new MTU", || {
        let shown = stage
            .agent
            .cli(&["exec", "web", "--", "cat", "/sys/class/net/eth0/mtu"]);
        (shown.stdout.trim() == "1400").then_some(())
    });
    stage.reaches("192.0.2.7", port);
}

#[test]
fn a_container_is_reached_by_each_of_several_uplinks() {
    if skip_unless_root() {
        return;
    }
    let world = NetworkWorld::new();
    let resident = start(&world.outside, "sleep 60");
    let pid = resident.0.id();
    configure(
        &world.host,
        &format!("ip link add second type veth peer name eth1 netns {pid}"),
    );
    drop(resident);
    for (namespace, interface, last) in [(&world.host, "second", 1), (&world.outside, "eth1", 2)] {
        configure(namespace, &format!("ip link set {interface} up"));
        configure(
            namespace,
            &format!("ip addr add 198.51.100.{last}/24 dev {interface}"),
        );
    }
    let flags = [POOL, FEW, "--uplinks=uplink,second"];
    let agent = within(&world.host, || Agent::start_with(&flags, &[]));
    let stage = Stage { agent, world };
    let port = stage.serve("web");
    stage.reaches(HOST, port);
    stage.reaches("198.51.100.1", port);
    // What it asks by the second one is asked from that one's address.
    let asked = "ip -4 route get 198.51.100.2";
    let told = stage
        .agent
        .cli(&["exec", "web", "--", "sh", "-c", asked])
        .success()
        .stdout;
    assert!(told.contains("src 198.51.100.1"), "{told}");
}
