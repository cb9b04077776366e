//! A world of network namespaces: "outside" on the wire, "host" (the test's own thread), and containers. Nothing of the
//! machine's own network is touched: the thread leaves it first, and mounts a bpffs that only it sees.

#![allow(dead_code)] // Each test program uses a part of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use kernel::namespace;
use kernel::netlink::namespace::{create, within};
use kernel::process::NamespaceFlags;
use model::{Bandwidth, ContainerId, PortGrant, PortRange, PortRanges};
use network::{Attach, Attached, Config, Datapath, Known};

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

impl Drop for World {
    fn drop(&mut self) {
        // A directory with a mount can't be removed.
        if let Some(mount) = self.pins.parent() {
            on_host(&format!("umount -l {}", mount.display()));
        }
    }
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

fn in_or_here<R: Send>(netns: Option<&OwnedFd>, work: impl FnOnce() -> R + Send) -> R {
    match netns {
        Some(netns) => within(netns, work).unwrap(),
        None => work(),
    }
}

/// Echoes TCP and UDP at `port`, IPv4 and IPv6, until the test ends.
pub fn echo_server(netns: Option<&OwnedFd>, port: u16) {
    let (tcp, udp) = in_or_here(netns, || {
        let any = ("::".parse::<IpAddr>().unwrap(), port);
        (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    thread::spawn(move || {
        let mut bytes = vec![0; 65536];
        while let Ok((count, from)) = udp.recv_from(&mut bytes) {
            let _ = udp.send_to(&bytes[..count], from);
        }
    });
}

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Tcp,
    Udp,
}

/// How long an answer may take; what must not be answered is waited for no longer either.
const ANSWER: Duration = Duration::from_millis(1500);

/// Sends `size` bytes to an echo server and compares what comes back.
pub fn ask(netns: Option<&OwnedFd>, kind: Kind, address: &str, port: u16, size: usize) -> io::Result<()> {
    let to = SocketAddr::new(address.parse().unwrap(), port);
    let payload: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
    in_or_here(netns, || match kind {
        Kind::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER)?;
            stream.set_read_timeout(Some(ANSWER))?;
            let mut writer = stream.try_clone()?;
            let mut got = vec![0; size];
            thread::scope(|scope| {
                let sender = scope.spawn(|| writer.write_all(&payload));
                stream.read_exact(&mut got)?;
                sender.join().unwrap()
            })?;
            same(&got, &payload)
        }
        Kind::Udp => {
            let any: IpAddr = if to.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(ANSWER))?;
            socket.connect(to)?;
            socket.send(&payload)?;
            let mut got = vec![0; 65536];
            let count = socket.recv(&mut got)?;
            same(&got[..count], &payload)
        }
    })
}

fn same(got: &[u8], payload: &[u8]) -> io::Result<()> {
    match got == payload {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{} of {} bytes",
            got.len(),
            payload.len()
        ))),
    }
}

impl World {
    /// The calling thread becomes the host: never call it on a thread that is needed elsewhere.
    pub fn new() -> Self {
        namespace::unshare(NamespaceFlags::NET.and(NamespaceFlags::MOUNT)).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let pins = scratch.path().join("bpf");
        std::fs::create_dir(&pins).unwrap();
        on_host_ok(&format!(
            "mount --make-rprivate /; mount -t bpf bpf {}; ip link set lo up; \
             echo 50000 60999 >/proc/sys/net/ipv4/ip_local_port_range",
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
            uplink_rate: None,
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
    attach_with(datapath, n, &Bandwidth::default())
}

pub fn attach_with(datapath: &Datapath, n: u16, bandwidth: &Bandwidth) -> Container {
    let netns = create().unwrap();
    let (id, grant) = (id(n), grant(n));
    let attached = datapath
        .attach(&Attach {
            id: &id,
            netns: netns.as_fd(),
            grant: &grant,
            bandwidth,
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

impl Container {
    /// For a successor of the agent.
    pub fn known(&self, bandwidth: Bandwidth) -> Known {
        Known {
            id: self.id.clone(),
            slot: self.attached.slot,
            grant: self.grant.clone(),
            bandwidth,
            netns: self.netns.try_clone().ok(),
        }
    }
}
