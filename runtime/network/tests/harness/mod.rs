//! A world of network namespaces: "outside" on the wire, "host" (the test's own thread), and containers. Nothing of the
//! machine's own network is touched: the thread leaves it first, and mounts a bpffs that only it sees.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use kernel::namespace;
use kernel::netlink::namespace::{create, within};
use kernel::process::NamespaceFlags;
use model::{Bandwidth, ContainerId, PortGrant, PortRange, PortRanges};
use network::{Attach, Attached, Config, Datapath};

pub const HOST: &str = "10.77.0.1";
pub const OUTSIDE: &str = "10.77.0.2";
pub const HOST6: &str = "fd77::1";
pub const OUTSIDE6: &str = "fd77::2";

/// True when this test can't run here; says why.
pub fn skip() -> bool {
    let root = kernel::host::require_root();
    if let Err(error) = &root {
        eprintln!("SKIPPED: {error}");
    }
    root.is_err()
}

pub struct World {
    pub outside: OwnedFd,
    pub pins: PathBuf,
    _scratch: tempfile::TempDir,
}

/// A program in some namespace, killed at the end.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub fn finish(mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// In the thread's own namespace, the host's.
pub fn on_host(script: &str) -> Output {
    Command::new("sh").args(["-ec", script]).output().unwrap()
}

pub fn on_host_ok(script: &str) -> String {
    let output = on_host(script);
    assert!(output.status.success(), "{script}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn inside(netns: &OwnedFd, script: &str) -> Output {
    within(netns, || on_host(script)).unwrap()
}

pub fn inside_ok(netns: &OwnedFd, script: &str) -> String {
    within(netns, || on_host_ok(script)).unwrap()
}

/// Starts Python code that prints a line when it is ready.
pub fn python(netns: Option<&OwnedFd>, code: &str) -> Running {
    let start = || {
        let mut child = Command::new("python3")
            .args(["-c", code])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "ready", "{code}");
        Running(child)
    };
    match netns {
        Some(netns) => within(netns, start).unwrap(),
        None => start(),
    }
}

/// Echoes TCP and UDP at `port`, IPv4 and IPv6.
pub fn echo_server(netns: Option<&OwnedFd>, port: u16) -> Running {
    python(
        netns,
        &format!(
            r#"
import socket, threading
def tcp(family, address):
    s = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, {port})); s.listen(64)
    def one(c):
        with c:
            while True:
                d = c.recv(65536)
                if not d: return
                c.sendall(d)
    def serve():
        while True:
            c, _ = s.accept()
            threading.Thread(target=one, args=(c,), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
def udp(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, {port}))
    def serve():
        while True:
            d, a = s.recvfrom(65536)
            s.sendto(d, a)
    threading.Thread(target=serve, daemon=True).start()
for f, a in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    tcp(f, a); udp(f, a)
print("ready", flush=True)
threading.Event().wait()
"#
        ),
    )
}

/// Asks an echo server; the answer is what came back and from where it was asked.
pub const ASK: &str = r#"
import socket, sys
kind, address, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
source = int(sys.argv[5]) if len(sys.argv) > 5 else 0
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(1.5)
if source: s.bind(("", source))
s.connect((address, port))
payload = bytes(i * 7 % 251 for i in range(size))
s.sendall(payload)
got = b""
while len(got) < size:
    part = s.recv(65536)
    if not part: break
    got += part
assert got == payload, (len(got), size)
print("ok", s.getsockname()[1])
"#;

pub fn ask(netns: Option<&OwnedFd>, kind: &str, address: &str, port: u16, size: usize) -> Output {
    ask_from(netns, kind, address, port, size, 0)
}

pub fn ask_from(
    netns: Option<&OwnedFd>,
    kind: &str,
    address: &str,
    port: u16,
    size: usize,
    source: u16,
) -> Output {
    let run = || {
        Command::new("python3")
            .args([
                "-c",
                ASK,
                kind,
                address,
                &port.to_string(),
                &size.to_string(),
                &source.to_string(),
            ])
            .output()
            .unwrap()
    };
    match netns {
        Some(netns) => within(netns, run).unwrap(),
        None => run(),
    }
}

#[track_caller]
pub fn answered(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

#[track_caller]
pub fn unanswered(output: &Output) {
    assert!(
        !output.status.success(),
        "reached what it must not: {}",
        text(output)
    );
}

impl World {
    /// The calling thread becomes the host: never call it on a thread that is needed elsewhere.
    pub fn new() -> Self {
        namespace::unshare(NamespaceFlags::NET.and(NamespaceFlags::MOUNT)).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let pins = scratch.path().join("bpf");
        std::fs::create_dir(&pins).unwrap();
        on_host_ok(&format!(
            "mount --make-rprivate /; mount -t bpf bpf {}; ip link set lo up",
            pins.display()
        ));
        let outside = create().unwrap();
        let world = Self {
            outside,
            pins: pins.join("net"),
            _scratch: scratch,
        };
        world.uplink("up0", "10.77.0", "fd77::");
        on_host_ok("ip route add default via 10.77.0.2; ip -6 route add default via fd77::2");
        world
    }

    /// A wire between host (.1) and outside (.2).
    pub fn uplink(&self, name: &str, v4: &str, v6: &str) {
        std::fs::create_dir_all("/run").unwrap();
        let pid = within(&self.outside, || Command::new("sleep").arg("5").spawn().unwrap());
        let mut sleeper = pid.unwrap();
        on_host_ok(&format!(
            "ip link add {name} type veth peer name w{name} netns {}; ip link set {name} up; \
             ip addr add {v4}.1/24 dev {name}; ip -6 addr add {v6}1/64 dev {name} nodad",
            sleeper.id()
        ));
        inside_ok(
            &self.outside,
            &format!(
                "ip link set lo up; ip link set w{name} up; ip addr add {v4}.2/24 dev w{name}; \
                 ip -6 addr add {v6}2/64 dev w{name} nodad"
            ),
        );
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }

    pub fn config(&self) -> Config {
        Config {
            instance: "t".to_owned(),
            pins: self.pins.clone(),
            uplinks: Vec::new(),
        }
    }

    pub fn open(&self) -> Datapath {
        Datapath::open(self.config()).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text += &format!(": {one}");
        cause = one.source();
    }
    text
}

pub struct Container {
    pub id: ContainerId,
    pub netns: OwnedFd,
    pub grant: PortGrant,
    pub attached: Attached,
    pub port: u16,
}

/// Number `n` has port 31000+10n and nine more, and ephemeral ports 33000+100n to +99.
pub fn grant(n: u16) -> PortGrant {
    let port = 31000 + 10 * n;
    PortGrant {
        allotted: PortRanges::from_iter([PortRange::new(port, port + 9).unwrap()]),
        ephemeral: PortRange::new(33000 + 100 * n, 33099 + 100 * n),
    }
}

pub fn id(n: u16) -> ContainerId {
    format!("test-{n}").parse().unwrap()
}

pub fn attach(datapath: &Datapath, n: u16) -> Container {
    let netns = create().unwrap();
    let (id, grant) = (id(n), grant(n));
    let attached = datapath
        .attach(&Attach {
            id: &id,
            netns: netns.as_fd(),
            grant: &grant,
            bandwidth: &Bandwidth::default(),
        })
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    Container {
        id,
        netns,
        grant,
        attached,
        port: 31000 + 10 * n,
    }
}
