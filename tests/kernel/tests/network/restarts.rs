//! Traffic flows while agents come and go; and whose a network is.

use serde_json::Value;
use support::network::{HOST, run, start, within};
use support::{eventually, skip_unless_root};

use crate::stage::{SERVER, Stage};

/// How long traffic flows.
fn seconds() -> u64 {
    let given = std::env::var("BULKHEAD_RESTART_SECONDS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// What iperf3 tells, or an object with its error.
fn told(namespace: &std::os::fd::OwnedFd, command: &str) -> Value {
    let output = run(namespace, command);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| serde_json::json!({ "error": "nothing was told" }))
}

#[test]
fn no_packet_is_lost_and_no_connection_broken_while_agents_come_and_go() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    let servers = "iperf3 -s -p $PORT0 >/dev/null & exec iperf3 -s -p $PORT1 >/dev/null";
    let run = [
        "run",
        "-d",
        "--name",
        "load",
        "--network",
        "mapped",
        "--ports",
        "2",
        "--",
        "sh",
        "-c",
        servers,
    ];
    stage.agent.cli(&run).success();
    let inspected = stage.agent.cli(&["inspect", "load", "-o", "json"]).json();
    let port = |at: usize| inspected["ports"][at].as_u64().expect("a port");
    // Few enough datagrams that the receiver's buffer holds a second of them: a busy machine pauses processes for long.
    let flows = [
        format!("iperf3 -c {HOST} -p {} -J -b 300M", port(0)),
        format!("iperf3 -c {HOST} -p {} -J -u -b 700k -l 1000", port(1)),
    ];
    for flow in &flows {
        eventually("the server is ready", || {
            let tried = told(&stage.world.outside, &format!("{flow} -n 1000"));
            tried["error"].is_null().then_some(())
        });
    }
    let before = stage.statistics("load");
    let running: Vec<_> = flows
        .iter()
        .map(|flow| start(&stage.world.outside, &format!("{flow} -t {}", seconds())))
        .collect();
    let pause = std::time::Duration::from_millis(seconds() * 1000 / 6);
    for hard in [false, false, true, false] {
        std::thread::sleep(pause);
        if hard {
            stage.agent.kill_hard();
        } else {
            stage.agent.stop();
        }
        // Nobody is there for a while.
        std::thread::sleep(pause / 8);
        let (agent, world) = (&mut stage.agent, &stage.world);
        within(&world.host, || agent.spawn());
    }
    let ended: Vec<Value> = running
        .into_iter()
        .map(|flow| serde_json::from_str(&flow.output()).expect("what iperf3 tells"))
        .collect();
    for flow in &ended {
        assert!(flow["error"].is_null(), "{}", flow["error"]);
    }
    let (tcp, udp) = (&ended[0]["end"], &ended[1]["end"]["sum"]);
    eprintln!(
        "TCP: {} bytes, {} retransmits; UDP: {} of {} datagrams lost",
        tcp["sum_received"]["bytes"], tcp["sum_sent"]["retransmits"], udp["lost_packets"], udp["packets"]
    );
    assert_eq!(udp["lost_packets"], 0, "{udp}");
    assert!(udp["packets"].as_u64() >= Some(seconds() * 80), "{udp}");
    assert!(
        tcp["sum_received"]["bytes"].as_u64() > Some(seconds() * 1_000_000),
        "{tcp}"
    );
    let after = stage.statistics("load");
    for counter in ["net_rx_dropped", "net_tx_dropped"] {
        assert_eq!(before[counter], after[counter], "{counter}");
    }
    // Unbroken by restarts also where they are counted.
    assert!(
        after["net_rx_bytes"].as_u64() > before["net_rx_bytes"].as_u64(),
        "{after}"
    );
}

#[test]
fn a_container_with_ids_of_its_own_owns_its_network_and_no_more() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    // What needs a right over the namespace works; the host's is out of reach as ever.
    let script = format!("ip link set dev eth0 txqueuelen 555 || exit 3; {SERVER}");
    let run = [
        "run",
        "-d",
        "--name",
        "own",
        "--userns",
        "--cap-add",
        "NET_ADMIN",
        "--network",
        "mapped",
        "--ports",
        "1",
        "--",
        "sh",
        "-c",
        &script,
    ];
    stage.agent.cli(&run).success();
    let inspected = stage.agent.cli(&["inspect", "own", "-o", "json"]).json();
    assert!(
        inspected["spec"]["userns"]["base"].as_u64() > Some(0),
        "{inspected}"
    );
    let port = inspected["ports"][0].as_u64().expect("a port") as u16;
    stage.reaches(HOST, port);
    stage.reaches("[2001:db8::1]", port);
    let show = "ip link show eth0; cat /proc/sys/net/ipv4/ip_local_port_range; cat /proc/self/uid_map";
    let shown = stage
        .agent
        .cli(&["exec", "own", "--", "sh", "-c", show])
        .success()
        .stdout;
    assert!(shown.contains("qlen 555") && shown.contains("61440"), "{shown}");
    assert!(!shown.contains(" 4294967295"), "the host's own ids: {shown}");
    stage.restart();
    stage.reaches(HOST, port);
    assert!(stage.statistics("own")["net_rx_bytes"].as_u64() > Some(100));
    stage.agent.cli(&["kill", "own"]).success();
    eventually("its interface is gone", || {
        stage.interfaces().is_empty().then_some(())
    });
}

#[test]
fn an_agent_without_an_uplink_starts_with_all_that_runs_and_takes_it_over_when_there_is_one() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    let port = stage.serve("web");
    stage.reaches(HOST, port);
    for command in ["ip route del default", "ip -6 route del default"] {
        assert!(
            support::network::run(&stage.world.host, command).status.success(),
            "{command}"
        );
    }
    stage.restart();
    // Its network is as it was.
    stage.reaches(HOST, port);
    assert!(stage.agent.cli(&["ps"]).success().stdout.contains("web"));
    let launch = ["run", "--network", "mapped", "--", "true"];
    let refused = stage.agent.cli(&launch);
    assert_eq!(refused.status, 125, "{refused:?}");
    assert!(refused.stderr.contains("--uplinks"), "{refused:?}");
    let health = stage.agent.cli(&["net"]).stdout;
    assert!(health.contains("stay connected"), "{health}");
    support::network::run(&stage.world.host, "ip route add default via 192.0.2.2");
    stage.agent.cli(&launch).success();
    stage.reaches(HOST, port);
    let updated = stage.agent.cli(&["update", "--egress", "10Mbit", "web"]);
    assert!(updated.success().stdout.contains("egress"));
    assert_eq!(stage.interfaces().len(), 1, "{:?}", stage.interfaces());
}
