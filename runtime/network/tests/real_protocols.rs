//! What is not plain TCP and UDP over plain IP over plain Ethernet. What this kernel has not is said and passed over.

mod harness;

use std::os::fd::{AsFd, OwnedFd};

use harness::*;
use kernel::netlink::namespace::create;
use model::{Bandwidth, PortGrant, PortRange, PortRanges};
use network::{Attach, Datapath};

const SCTP: u16 = 132;

fn kind(protocol: u16) -> &'static str {
    match protocol {
        SCTP => "SOCK_STREAM",
        _ => "SOCK_DGRAM",
    }
}

fn has(netns: Option<&OwnedFd>, probe: &str) -> bool {
    let found = match netns {
        Some(netns) => inside(netns, probe),
        None => on_host(probe),
    };
    if !found.status.success() {
        eprintln!("SKIPPED in part: {probe}: {}", text(&found));
    }
    found.status.success()
}

/// Answers at a port, over any protocol with ports: streams by SCTP, datagrams by UDP-Lite.
fn server(netns: Option<&OwnedFd>, protocol: u16, port: u16) -> Running {
    let kind = kind(protocol);
    python(
        netns,
        &format!(
            r#"
import socket, threading
s = socket.socket(socket.AF_INET6, socket.{kind}, {protocol})
s.setsockopt(41, 26, 0)
s.bind(("::", {port}))
if {protocol} == 132: s.listen(8)
print("ready", flush=True)
def serve(c):
    while True:
        d = c.recv(65536)
        if not d: return
        c.send(d)
while True:
    if {protocol} == 132: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
    else:
        d, a = s.recvfrom(65536)
        s.sendto(d, a)
"#
        ),
    )
}

/// Asks each address with each size, in one program: a line for each, "yes" when all that was sent has come back.
fn client(
    netns: Option<&OwnedFd>,
    source: u16,
    protocol: u16,
    to: &[&str],
    port: u16,
    sizes: &[usize],
) -> String {
    let kind = kind(protocol);
    let script = format!(
        r#"python3 -c '
import socket
def ask(address, size):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.{kind}, {protocol})
    s.settimeout(3)
    try:
        if {source}: s.bind(("", {source}))
        s.connect((address, {port}))
        d = bytes(i * 7 % 251 for i in range(size))
        s.send(d)
        g = b""
        while len(g) < len(d):
            p = s.recv(65536)
            if not p: break
            g += p
        return "yes" if g == d else "garbled"
    except OSError as e: return e
for address in {to:?}:
    for size in {sizes:?}: print(address, size, ask(address, size))
'"#
    );
    match netns {
        Some(netns) => inside_ok(netns, &script),
        None => on_host_ok(&script),
    }
}

/// Everybody asks everybody by a protocol with ports. What this kernel has not is said.
fn is_steered(name: &str, protocol: u16, sizes: &[usize]) {
    let kind = if protocol == SCTP { 1 } else { 2 };
    let probe = format!("python3 -c 'import socket; socket.socket(2, {kind}, {protocol})'");
    if skip() || !has(None, &probe) {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    let (outside, a, b) = (Some(&world.outside), Some(&one.netns), Some(&two.netns));
    let _in = server(a, protocol, one.port);
    let _host = server(None, protocol, 8090);
    let _out = server(outside, protocol, 9090);
    let cases = [
        ("outside to one", outside, HOST, HOST6, one.port),
        ("host to one", None, HOST, HOST6, one.port),
        ("two to one", b, HOST, HOST6, one.port),
        ("one to host", a, HOST, HOST6, 8090),
        ("one to outside", a, OUTSIDE, OUTSIDE6, 9090),
    ];
    for (case, from, v4, v6, to) in cases {
        let got = client(from, 0, protocol, &[v4, v6], to, sizes);
        eprintln!("{name}, {case}:\n{got}");
        let arrived = got.lines().filter(|line| line.ends_with(" yes")).count();
        assert_eq!(arrived, 2 * sizes.len(), "{name}, {case}: {got}");
    }
    let used = &datapath.usage_all().unwrap()[&one.id];
    assert!(used.rx.packets > 0 && used.tx.packets > 0, "{used:?}");
    assert!(!used.drops.contains_key("protocol"), "{:?}", used.drops);
    // From a port that is somebody else's: not even an association is begun.
    let foreign = client(a, two.port, protocol, &[OUTSIDE], 9090, &[10]);
    assert!(!foreign.contains("yes"), "{foreign}");
    let drops = &datapath.usage_all().unwrap()[&one.id].drops;
    assert!(drops["foreign_source_port"] >= 1, "{drops:?}");
    datapath.close(false).unwrap();
}

#[test]
fn datagrams_by_udp_lite_are_steered_as_well() {
    is_steered("UDP-Lite", 136, &[1000]);
}

#[test]
fn associations_by_sctp_are_steered_as_well() {
    // The larger one is many packets, and acknowledgements in between.
    is_steered("SCTP", SCTP, &[1000, 60_000]);
}

#[test]
fn options_of_the_internet_header_do_not_hide_ports() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let one = attach(&datapath, 1);
    echo_server(Some(&one.netns), one.port);
    echo_server(Some(&world.outside), 9090);
    // Record route with room for three, and nothing but padding: the longest there is.
    for options in [
        "07 0f 04 00000000 00000000 00000000 00".replace(' ', ""),
        "01".repeat(40),
    ] {
        for (from, address, port) in [(&world.outside, HOST, one.port), (&one.netns, OUTSIDE, 9090)] {
            for kind in ["SOCK_DGRAM", "SOCK_STREAM"] {
                let script = format!(
                    r#"python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.{kind})
s.settimeout(3)
s.setsockopt(0, 4, bytes.fromhex("{options}"))
s.connect(("{address}", {port}))
s.send(b"hello")
print(s.recv(5) == b"hello")
'"#
                );
                let got = inside(from, &script);
                assert!(
                    text(&got).contains("True"),
                    "{options} {kind} to {address}: {}",
                    text(&got)
                );
            }
        }
    }
    datapath.close(false).unwrap();
}

#[test]
fn an_uplink_may_be_a_vlan_and_the_link_below_it_another() {
    if skip() {
        return;
    }
    let world = World::new();
    if !has(None, "ip link add link up0 name up0.5 type vlan id 5") {
        return;
    }
    on_host_ok(
        "ip link set up0.5 up; ip addr add 10.79.0.1/24 dev up0.5; ip -6 addr add fd79::1/64 dev up0.5 nodad",
    );
    inside_ok(
        &world.outside,
        "ip link add link wup0 name wup0.5 type vlan id 5; ip link set wup0.5 up; ip addr add 10.79.0.2/24 dev wup0.5; \
         ip -6 addr add fd79::2/64 dev wup0.5 nodad",
    );
    echo_server(Some(&world.outside), 9090);
    for uplinks in [&["up0.5"][..], &["up0", "up0.5"]] {
        let mut config = world.config();
        config.uplinks = uplinks.iter().map(ToString::to_string).collect();
        let datapath = Datapath::open(config).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let one = attach(&datapath, 1);
        echo_server(Some(&one.netns), one.port);
        for (from, v4, v6, port) in [
            (&world.outside, "10.79.0.1", "fd79::1", one.port),
            (&one.netns, "10.79.0.2", "fd79::2", 9090),
        ] {
            for address in [v4, v6] {
                for (kind, size) in [(Kind::Tcp, 200_000), (Kind::Udp, 1000), (Kind::Udp, 9000)] {
                    ask(Some(from), kind, address, port, size)
                        .unwrap_or_else(|error| panic!("{uplinks:?} {kind:?} {size} {address}: {error}"));
                }
            }
        }
        if uplinks.len() == 2 {
            ask(Some(&world.outside), Kind::Tcp, HOST, one.port, 200_000).unwrap();
        }
        datapath.close(false).unwrap();
    }
}

#[test]
fn a_neighbours_ports_can_be_asked_but_not_used() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    echo_server(Some(&two.netns), two.port);
    echo_server(Some(&world.outside), 9090);
    let before = datapath.usage_all().unwrap()[&two.id].rx.packets;
    // A scan of all that the neighbour has finds what it listens at, as anybody outside would, and nothing else.
    let ephemeral = two.grant.ephemeral.unwrap();
    let scan = format!(
        r#"python3 -c '
import socket
found = []
for port in [*range({0}, {0} + 10), *range({1}, {2} + 1)]:
    s = socket.socket()
    s.settimeout(3)
    if s.connect_ex(("{HOST}", port)) == 0: found.append(port)
    s.close()
print(*found)
'"#,
        two.port,
        ephemeral.first(),
        ephemeral.last(),
    );
    assert_eq!(inside_ok(&one.netns, &scan).trim(), two.port.to_string());
    let seen = datapath.usage_all().unwrap()[&two.id].rx.packets - before;
    assert!(seen >= 109, "the neighbour's counters tell of a scan: {seen}");

    // Its own idea of which ports are its own changes nothing: neither the setting nor an explicit bind.
    inside_ok(
        &one.netns,
        &format!(
            "echo {} {} >/proc/sys/net/ipv4/ip_local_port_range",
            ephemeral.first(),
            ephemeral.last()
        ),
    );
    for kind in [Kind::Tcp, Kind::Udp] {
        ask(Some(&one.netns), kind, OUTSIDE, 9090, 10).unwrap_err();
        ask(Some(&one.netns), kind, HOST, two.port, 10).unwrap_err();
    }
    let usage = datapath.usage_all().unwrap();
    assert!(
        usage[&one.id].drops["foreign_source_port"] >= 2,
        "{:?}",
        usage[&one.id].drops
    );
    ask(Some(&two.netns), Kind::Tcp, OUTSIDE, 9090, 10).unwrap();
    datapath.close(false).unwrap();
}

/// Fragments of one datagram whose parts lie over each other.
const FRAGMENTS: &str = r#"
import socket, struct, sys
src, dst, sport, dport, foreign = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
v6 = ":" in src
def send(offset, more, ident, data):
    if v6:
        s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 44)
        s.sendto(struct.pack("!BBHI", 17, 0, offset << 3 | more, ident) + data, (dst, 0))
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), ident, more << 13 | offset, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst))
        s.sendto(h + data, (dst, 0))
def udp(port, size): return struct.pack("!HHHH", port, dport, 8 + size, 0)
# Another first fragment over the first one, before it and after it: with a port of somebody else.
send(0, 1, 901, udp(sport, 24) + b"12345678")
send(0, 1, 901, udp(foreign, 24) + b"BHX45678")
send(2, 0, 901, b"x" * 16)
send(0, 1, 902, udp(foreign, 24) + b"BHX45678")
send(0, 1, 902, udp(sport, 24) + b"12345678")
send(2, 0, 902, b"x" * 16)
# A later one that lies over the header of the first as far as one can.
send(0, 1, 903, udp(sport, 40) + b"BHX" * 8)
send(1, 0, 903, b"BHX" * 12 + b"\0" * 4)
# The ports only in the second; only later ones.
send(0, 1, 904, udp(foreign, 24)[:8])
send(1, 0, 904, b"BHX" * 8)
send(2, 0, 905, b"BHX" * 8)
"#;

#[test]
fn overlapping_fragments_carry_no_foreign_port() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    // Whoever gets a datagram writes a line.
    let listen = |netns: Option<&OwnedFd>, port: u16, file: &str| {
        python(
            netns,
            &format!(
                "import socket\ns=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\ns.bind(('::', {port}))\n\
                 print('ready', flush=True)\nwhile True:\n  d, a = s.recvfrom(9000)\n  open('{file}', 'a').write(str(a[1]) + ' ' + repr(d) + chr(10))\n"
            ),
        )
    };
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let _listeners = [
        listen(Some(&one.netns), one.port, &file("one")),
        listen(Some(&two.netns), two.port, &file("two")),
        listen(None, 8080, &file("host")),
        listen(Some(&world.outside), 9090, &file("outside")),
    ];
    let send = |from: &OwnedFd, arguments: String| {
        inside_ok(from, &format!("python3 -c '{FRAGMENTS}' {arguments}"));
    };
    for (host, out) in [(HOST, OUTSIDE), (HOST6, OUTSIDE6)] {
        for foreign in [22, two.port] {
            send(
                &one.netns,
                format!("{host} {out} {} 9090 {foreign}", one.port + 1),
            );
            send(
                &one.netns,
                format!("{host} {host} {} 8080 {foreign}", one.port + 1),
            );
            send(
                &one.netns,
                format!("{host} {host} {} {} {foreign}", one.port + 1, two.port),
            );
        }
        // From outside they are at worst somebody else's datagram.
        send(&world.outside, format!("{out} {host} 5000 {} 22", one.port));
    }
    // What is whole goes on arriving.
    for (host, port) in [(HOST, one.port), (HOST6, two.port)] {
        inside_ok(
            &world.outside,
            &format!(
                "python3 -c 'import socket; socket.socket({}, 2).sendto(b\"whole\" * 1000, (\"{host}\", {port}))'",
                if host == HOST { 2 } else { 10 }
            ),
        );
    }
    let whole = |name: &str| {
        for _ in 0..100 {
            let text = std::fs::read_to_string(file(name)).unwrap_or_default();
            if text.contains("wholewhole") {
                return text;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("nothing arrives at {name}");
    };
    let all = [
        whole("one"),
        whole("two"),
        std::fs::read_to_string(file("host")).unwrap_or_default(),
        std::fs::read_to_string(file("outside")).unwrap_or_default(),
    ];
    let own = format!("{} ", one.port + 1);
    for (name, text) in [("two", &all[1]), ("host", &all[2]), ("outside", &all[3])] {
        let foreign = |line: &&str| !line.starts_with(&own) && !line.contains("wholewhole");
        assert_eq!(text.lines().find(foreign), None, "at {name}");
    }
    let drops = &datapath.usage_all().unwrap()[&one.id].drops;
    assert!(drops["foreign_source_port"] >= 12, "{drops:?}");
    datapath.close(false).unwrap();
}

#[test]
fn a_container_without_ephemeral_ports_is_connected_too() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let netns = create().unwrap();
    let grant = PortGrant {
        allotted: PortRanges::from_iter([PortRange::new(31_500, 31_503).unwrap()]),
        ephemeral: None,
    };
    let id = id(7);
    let request = Attach {
        id: &id,
        netns: netns.as_fd(),
        grant: &grant,
        bandwidth: &Bandwidth::default(),
    };
    datapath.attach(&request).unwrap();
    echo_server(Some(&world.outside), 9090);
    ask(Some(&netns), Kind::Tcp, OUTSIDE, 9090, 1000).unwrap();
    ask(Some(&netns), Kind::Udp, OUTSIDE6, 9090, 1000).unwrap();
    datapath.close(false).unwrap();
}
