//! Echo, errors and path MTU: what the network says about packets reaches whose packets they were.

mod harness;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use harness::*;
use kernel::netlink::namespace::{create, within};

/// A datagram to where nobody listens: the error that comes back.
fn refused(netns: Option<&OwnedFd>, address: &str, port: u16, source: u16) -> Option<io::ErrorKind> {
    let send = || -> io::Result<()> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        let socket = UdpSocket::bind((any, source))?;
        socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
        socket.connect(to)?;
        socket.send(b"anyone?")?;
        socket.recv(&mut [0; 8]).map(drop)
    };
    let result = match netns {
        Some(netns) => within(netns, send).unwrap(),
        None => send(),
    };
    result.err().map(|error| error.kind())
}

/// Pings by raw sockets with ids of their own choice: prints which got a reply.
const PING: &str = r#"
import socket, struct, sys, time
def sum16(b):
    t = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while t >> 16: t = (t & 0xffff) + (t >> 16)
    return ~t & 0xffff
def ping(to, ident):
    v6 = ":" in to
    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, 58 if v6 else 1)
    s.settimeout(1.5)
    body = struct.pack("!HH8s", ident, 1, b"payload!")
    head = struct.pack("!BBH", 128 if v6 else 8, 0, 0)
    if not v6: head = head[:2] + struct.pack("!H", sum16(head + body))
    s.sendto(head + body, (to, 0))
    end = time.time() + 1.5
    while time.time() < end:
        try: d = s.recv(2048)
        except TimeoutError: break
        d = d if v6 else d[(d[0] & 15) * 4:]
        if d[0] == (129 if v6 else 0) and struct.unpack("!H", d[4:6])[0] == ident: return "yes"
    return "no"
print(*[ping(to, int(sys.argv[1])) for to in sys.argv[2:]])
"#;

fn ping(netns: Option<&OwnedFd>, ident: u16, to: &str) -> String {
    let script = format!("python3 -c '{PING}' {ident} {to}");
    let text = match netns {
        Some(netns) => inside_ok(netns, &script),
        None => on_host_ok(&script),
    };
    text.trim().to_owned()
}

#[test]
fn echo_and_errors_find_their_owner() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = world.open();
    let (one, two) = (attach(&datapath, 1), attach(&datapath, 2));
    let (outside, a, b) = (Some(&world.outside), Some(&one.netns), Some(&two.netns));
    let both = format!("{OUTSIDE} {OUTSIDE6}");
    assert_eq!(ping(a, 77, &both), "yes yes", "a container");
    // An id that a container has used is not taken from the host, nor by another container while it is fresh.
    assert_eq!(
        ping(None, 77, &both),
        "yes yes",
        "the host, with the id of a container"
    );
    assert_eq!(ping(b, 77, &both), "no no", "another container with the same id");
    assert_eq!(ping(b, 78, &both), "yes yes", "another container");
    assert_eq!(
        ping(outside, 5, &format!("{HOST} {HOST6}")),
        "yes yes",
        "the host answers"
    );
    let usage = datapath.usage_all().unwrap();
    assert_eq!(
        usage[&two.id].drops.get("echo_id_taken"),
        Some(&2),
        "{:?}",
        usage[&two.id]
    );

    let gone = Some(io::ErrorKind::ConnectionRefused);
    for (host, out) in [(HOST, OUTSIDE), (HOST6, OUTSIDE6)] {
        assert_eq!(refused(a, out, 9999, 0), gone, "container to outside {out}");
        assert_eq!(
            refused(outside, host, one.port + 3, 0),
            gone,
            "outside to container {host}"
        );
        assert_eq!(refused(a, host, 9999, 0), gone, "container to host {host}");
        assert_eq!(
            refused(None, host, one.port + 3, 0),
            gone,
            "host to container {host}"
        );
        assert_eq!(
            refused(a, host, two.port + 3, 0),
            gone,
            "container to container {host}"
        );
        assert_eq!(
            refused(a, host, one.port + 3, 0),
            gone,
            "container to itself {host}"
        );
    }
    datapath.close(false).unwrap();
}

#[test]
fn the_mtu_of_the_path_is_learned_and_hops_are_told() {
    if skip() {
        return;
    }
    let world = World::new();
    let far = create().unwrap();
    // Behind the outside, over a link that carries 1300 bytes.
    let sleeper = within(&far, || {
        std::process::Command::new("sleep").arg("20").spawn().unwrap()
    })
    .unwrap();
    inside_ok(
        &world.outside,
        &format!(
            "ip link add tofar type veth peer name eth0 netns {}; ip link set tofar up mtu 1300; \
             ip addr add 10.99.0.1/24 dev tofar; ip -6 addr add fd99::1/64 dev tofar nodad; \
             echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
            sleeper.id()
        ),
    );
    let mut sleeper = sleeper;
    inside_ok(
        &far,
        "ip link set lo up; ip link set eth0 up mtu 1300; ip addr add 10.99.0.2/24 dev eth0; \
         ip -6 addr add fd99::2/64 dev eth0 nodad; ip route add default via 10.99.0.1; \
         ip -6 route add default via fd99::1",
    );
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    echo_server(Some(&far), 9090);
    let datapath = world.open();
    let one = attach(&datapath, 1);
    echo_server(Some(&one.netns), one.port);
    for to in ["10.99.0.2", "fd99::2"] {
        // A full-sized datagram that must not be fragmented finds the limit.
        let probe = format!(
            "import socket,time\ns=socket.socket(socket.AF_INET6 if ':' in '{to}' else socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.settimeout(1)\ns.connect(('{to}', 9090))\n\
             s.setsockopt(*((41,23,2) if ':' in '{to}' else (0,10,2)))\n\
             for _ in range(3):\n  try: s.send(b'x'*1400); time.sleep(0.2)\n  except OSError as e: print(e.errno); break\n"
        );
        let told = inside_ok(&one.netns, &format!("python3 -c \"{probe}\""));
        assert_eq!(told.trim(), "90", "EMSGSIZE was to be learned towards {to}");
        let route = inside_ok(&one.netns, &format!("ip route get {to}"));
        assert!(route.contains("mtu 1300"), "{route}");
        ask(Some(&one.netns), Kind::Tcp, to, 9090, 300_000).unwrap();
        ask(Some(&one.netns), Kind::Udp, to, 9090, 8000).unwrap();
    }
    ask(Some(&far), Kind::Tcp, HOST, one.port, 300_000).unwrap();
    // What traceroute lives by: a datagram whose hops are used up on the way.
    let hops = "import socket\ns=socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(1.5)\n\
                s.setsockopt(0,2,1); s.setsockopt(0,11,1); s.connect(('10.99.0.2', 33434)); s.send(b'x')\n\
                try: s.recv(1)\nexcept OSError as e: print(e.errno)\n\
                d,anc,f,a=s.recvmsg(512,512,0x2000)\nprint(socket.inet_ntoa(anc[0][2][20:24]))";
    let told = inside_ok(&one.netns, &format!("python3 -c \"{hops}\""));
    assert_eq!(
        told.split_whitespace().collect::<Vec<_>>(),
        ["113", OUTSIDE],
        "{told}"
    );
    datapath.close(false).unwrap();
}
