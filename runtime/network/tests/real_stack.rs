//! What is told of a container's own stack: connections, round trip times, counters.

mod harness;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use harness::*;
use kernel::netlink::namespace::within;

/// Three segments and two datagrams with wrong checksums.
fn raw(to: &Container) -> String {
    format!(
        r#"python3 -c '
import socket, struct
tcp = struct.pack("!HHIIBBHHH", 5000, {0}, 1, 0, 0x50, 2, 1000, 0xbad, 0)
udp = struct.pack("!HHHH", 5000, {0}, 8, 0xbad)
for protocol, packet, count in (6, tcp, 3), (17, udp, 2):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    for _ in range(count): s.sendto(packet, ("{HOST}", 0))
'"#,
        to.port
    )
}

/// Four packets that end before their ports.
fn raw_stump() -> String {
    format!(
        r#"python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 17)
for _ in range(4): s.sendto(b"xy", ("{OUTSIDE}", 0))
'"#
    )
}

#[test]
fn connections_and_counters_are_those_of_the_container_alone() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    assert_eq!(datapath.usage_all().unwrap()[&one.id].tcp_active, None);
    datapath.measure_stacks().unwrap();
    let idle = datapath.usage_all().unwrap()[&one.id].clone();
    assert_eq!((idle.tcp_active, idle.tcp_time_wait), (Some(0), Some(0)));
    assert!(idle.tcp_rtt_micros.is_none() && idle.snmp.is_some());

    echo_server(Some(&one.netns), one.port);
    let client = || {
        let stream = TcpStream::connect((HOST, one.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    let mut held: Vec<TcpStream> = within(&world.outside, || (0..3).map(|_| client()).collect()).unwrap();
    for stream in &mut held {
        use std::io::{Read as _, Write as _};
        stream.write_all(b"ping").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"ping");
    }
    drop(held);
    // Three that are open on both sides.
    let listener = within(&two.netns, || TcpListener::bind(("0.0.0.0", two.port)).unwrap()).unwrap();
    let connect = || TcpStream::connect((HOST, two.port)).unwrap();
    let open: Vec<_> = (0..3)
        .map(|_| {
            (
                within(&world.outside, connect).unwrap(),
                listener.accept().unwrap(),
            )
        })
        .collect();
    datapath.measure_stacks().unwrap();
    let usage = datapath.usage_all().unwrap();
    let (first, second) = (&usage[&one.id], &usage[&two.id]);
    let passive = |usage: &model::NetworkUsage| usage.snmp.as_ref()?.get("tcp_stats", "PassiveOpens");
    assert_eq!((passive(first), passive(second)), (Some(3), Some(3)));
    assert_eq!(second.tcp_active, Some(3));
    assert_eq!(second.tcp_retransmits, Some(0));
    let times = second
        .tcp_rtt_micros
        .expect("open connections have a round trip time");
    assert!(times.p50 > 0.0 && times.p50 <= times.p99, "{times:?}");
    // Broken on the wire (a checksum), and on the way out (no ports).
    inside_ok(&world.outside, &raw(&one));
    inside_ok(&one.netns, &raw_stump());
    datapath.measure_stacks().unwrap();
    let usage = datapath.usage_all().unwrap();
    let errors = |one: &Container| (usage[&one.id].rx.errors, usage[&one.id].tx.errors);
    assert_eq!(errors(&one), (Some(3 + 2), Some(4)));
    assert_eq!(errors(&two), (Some(0), Some(0)));
    drop(open);
    drop(listener);
    // What is known of one that is gone is forgotten, and its namespace is let go.
    datapath.detach(&two.id).unwrap();
    datapath.measure_stacks().unwrap();
    assert_eq!(datapath.usage_all().unwrap().len(), 1);
    drop(two);
    for _ in 0..200 {
        if on_host_ok("ip -o link").matches("bht-").count() == 1 {
            datapath.close(false).unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the namespace is held: {}", on_host_ok("ip -o link"));
}
