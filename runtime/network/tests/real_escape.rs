//! A container with every right in its own namespace tries to get out of its ports and its address.

mod harness;

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use harness::*;
use kernel::netlink::namespace::within;

/// Builds frames by hand; every one that must not get anywhere carries the word BHX.
const FRAMES: &str = r#"
import socket, struct, sys
HOST, OUT, PORT, EPH, OTHER = "10.77.0.1", "10.77.0.2", int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
MAC = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
def sum16(b):
    if len(b) % 2: b += b"\0"
    t = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while t >> 16: t = (t & 0xffff) + (t >> 16)
    return ~t & 0xffff
def eth(payload, kind=0x0800, mac=MAC): return MAC + mac + struct.pack("!H", kind) + payload
def ip(payload, proto=17, src=HOST, dst=OUT, frag=0, ident=1, options=b""):
    ihl = 5 + len(options) // 4
    h = struct.pack("!BBHHHBBH4s4s", 0x40 | ihl, 0, ihl * 4 + len(payload), ident, frag, 64, proto, 0, socket.inet_aton(src), socket.inet_aton(dst)) + options
    return h[:10] + struct.pack("!H", sum16(h)) + h[12:] + payload
def udp(sport, dport=9090, body=b"BHX"): return struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body
def send(name, frame, times=3):
    for _ in range(times): s.send(frame)
send("port", eth(ip(udp(22))))
send("neighbour's port", eth(ip(udp(OTHER))))
send("port 0", eth(ip(udp(0))))
send("port behind options", eth(ip(udp(22), options=b"\x01\x01\x01\x00")))
send("address", eth(ip(udp(PORT), src="10.77.0.99")))
send("mac", eth(ip(udp(PORT)), mac=b"\x02BHX\x01\x02"))
send("arp", eth(struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, MAC, socket.inet_aton(OUT), b"BHX\0\0\0", socket.inet_aton(HOST)), 0x0806))
send("lldp", eth(b"BHX" * 20, 0x88cc))
send("vlan", MAC + MAC + struct.pack("!HHH", 0x8100, 5, 0x0800) + ip(udp(PORT)))
send("esp", eth(ip(b"BHX" * 10, proto=50)))
send("short", eth(ip(b"BH", proto=17)))
send("redirect", eth(ip(struct.pack("!BBHI", 5, 1, 0, 0) + b"BHX" * 12, proto=1)))
inner = ip(udp(9090, 22), src=OUT, dst=HOST)
send("error about a foreign packet", eth(ip(struct.pack("!BBHI", 3, 3, 0, 0) + inner, proto=1)))
send("group", eth(ip(udp(PORT), dst="224.0.0.251")))
send("broadcast", eth(ip(udp(PORT), dst="255.255.255.255")))
send("later fragment alone", eth(ip(b"BHX" * 8, frag=3, ident=77)))
# The second offset-0 fragment would put another port over the first one's.
send("first fragment", eth(ip(udp(PORT, body=b"fine" * 4), frag=0x2000, ident=78)), 1)
send("overlapping first", eth(ip(udp(22, body=b"BHX" * 5 + b"\0"), frag=0x2000, ident=78)))
send("own loopback", eth(ip(udp(PORT), dst="127.0.0.1")))
def ip6(payload, nxt, src, dst):
    return struct.pack("!IHBB", 6 << 28, len(payload), nxt, 255) + socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst) + payload
H6, O6 = "fd77::1", "fd77::2"
send("v6 port", eth(ip6(udp(22), 17, H6, O6), 0x86dd))
send("v6 port behind headers", eth(ip6(struct.pack("!BB6x", 60, 0) + struct.pack("!BB6x", 17, 0) + udp(22), 0, H6, O6), 0x86dd))
send("v6 address", eth(ip6(udp(PORT), 17, "fd77::99", O6), 0x86dd))
send("neighbour advertisement", eth(ip6(struct.pack("!BBHI", 136, 0, 0, 0x60000000) + socket.inet_pton(socket.AF_INET6, O6) + b"\2\1BHX\0\0\0", 58, H6, O6), 0x86dd))
send("v6 routing header", eth(ip6(struct.pack("!BBBBI", 17, 2, 0, 1, 0) + socket.inet_pton(socket.AF_INET6, O6) + udp(PORT), 43, H6, O6), 0x86dd))
send("to neighbour from a foreign port", eth(ip(udp(22, OTHER), dst=HOST)))
send("to host from a foreign port", eth(ip(udp(22, 8080), dst=HOST)))
send("honest", eth(ip(udp(EPH, body=b"HONEST"))))
"#;

/// Counts frames with a word at an interface, until its standard input ends and all that has come is read.
const SNIFF: &str = r#"
import socket, sys, select
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
print("ready", flush=True)
bad = good = 0
seen = []
while True:
    frames, _, _ = select.select([s, sys.stdin], [], [])
    if s in frames:
        d, a = s.recvfrom(65536)
        if a[2] == 4: continue
        if b"BHX" in d: bad += 1; seen.append(d.hex())
        if b"HONEST" in d: good += 1
    else: break
print(bad, good, " ".join(seen[:3]))
"#;

struct Sniffer(Child, BufReader<ChildStdout>);

fn sniff(netns: Option<&OwnedFd>, interface: &str) -> Sniffer {
    let start = || {
        let mut child = Command::new("python3")
            .args(["-c", SNIFF, interface])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Sniffer(child, out)
    };
    match netns {
        Some(netns) => within(netns, start).unwrap(),
        None => start(),
    }
}

impl Sniffer {
    /// Bad ones, honest ones, and what the first bad ones were.
    fn counted(mut self) -> (u32, u32, String) {
        // What was sent last may still wait for its neighbour's address.
        std::thread::sleep(Duration::from_millis(300));
        drop(self.0.stdin.take());
        let mut text = String::new();
        self.1.read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        let mut words = text.split_whitespace();
        let mut number = || words.next().unwrap().parse().unwrap();
        (number(), number(), text.clone())
    }
}

#[test]
fn nothing_foreign_gets_out_and_all_of_it_is_counted() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    let sniffers = [
        sniff(Some(&world.outside), "wup0"),
        sniff(Some(&two.netns), "eth0"),
        sniff(None, "lo"),
    ];
    let frames = within(&one.netns, || {
        let (port, other) = (one.port.to_string(), two.port.to_string());
        // /sys shows the namespace that it was mounted in; addresses come from the one at hand.
        Command::new("unshare")
            .args([
                "-m",
                "sh",
                "-c",
                "mount -t sysfs s /sys && exec python3 -c \"$0\" \"$@\"",
            ])
            .args([FRAMES, &port, "33150", &other])
            .output()
            .unwrap()
    })
    .unwrap();
    assert!(frames.status.success(), "{}", text(&frames));
    let [
        (outside, honest, seen),
        (neighbour, _, at_two),
        (host, _, at_host),
    ] = sniffers.map(Sniffer::counted);
    assert_eq!((outside, neighbour, host), (0, 0, 0), "{seen} {at_two} {at_host}");
    assert_eq!(honest, 3, "the honest packet did not arrive");

    let usage = datapath.usage_all().unwrap();
    let drops = &usage[&one.id].drops;
    let expected = [
        ("foreign_source_port", 8 * 3 + 3),
        ("foreign_source_address", 2 * 3),
        ("foreign_source_mac", 3),
        ("arp", 3),
        ("not_ip", 2 * 3),
        ("protocol", 2 * 3),
        ("malformed", 3),
        ("icmp", 3 * 3),
        ("multicast", 2 * 3),
        ("fragment_without_first", 3),
        ("destination", 3),
    ];
    for (reason, least) in expected {
        let counted = drops.get(reason).copied().unwrap_or_default();
        assert!(counted >= least, "{reason}: {counted} of {least}; {drops:?}");
    }
    assert!(
        !usage[&two.id].drops.contains_key("foreign_source_port"),
        "{:?}",
        usage[&two.id].drops
    );
    datapath.close(false).unwrap();
}

#[test]
fn what_a_container_does_to_its_own_interfaces_harms_only_itself() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    echo_server(Some(&two.netns), two.port);
    echo_server(Some(&world.outside), 9090);
    // Another address: nothing sent from it gets out, and it is not reachable by it.
    inside_ok(
        &one.netns,
        "ip addr add 10.77.0.50/32 dev eth0; ip link set eth0 promisc on",
    );
    let spoof = format!(
        "import socket; s=socket.socket(); s.settimeout(0.7); s.bind(('10.77.0.50', {})); s.connect(('{OUTSIDE}', 9090))",
        one.port
    );
    assert!(
        !inside(&one.netns, &format!("python3 -c \"{spoof}\""))
            .status
            .success()
    );
    // Nothing of the neighbour's traffic is seen, however promiscuous the interface.
    let sniffer = sniff(Some(&one.netns), "eth0");
    let marked = format!(
        "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); [s.sendto(b'BHX', ('{HOST}', {})) for _ in range(20)]",
        two.port
    );
    inside_ok(&world.outside, &format!("python3 -c \"{marked}\""));
    assert_eq!(sniffer.counted().0, 0);
    // Another MAC: it has cut itself off.
    inside_ok(&one.netns, "ip link set eth0 address 02:00:00:00:00:77");
    assert!(ask(Some(&one.netns), Kind::Tcp, OUTSIDE, 9090, 10).is_err());
    let usage = datapath.usage_all().unwrap();
    assert!(
        usage[&one.id].drops.contains_key("foreign_source_mac"),
        "{:?}",
        usage[&one.id]
    );
    assert!(
        usage[&one.id].drops.contains_key("foreign_source_address"),
        "{:?}",
        usage[&one.id]
    );
    ask(Some(&world.outside), Kind::Tcp, HOST, two.port, 1000).unwrap();
    datapath.close(false).unwrap();
}
