//! The contestants: each a host of its own, where one server is reached through whatever else that host has to look at.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use kernel::netlink::namespace;
use model::{Bandwidth, ContainerId, PortGrant, PortRange, PortRanges};
use network::{Attach, Attached, Config, Datapath};
use support::network::{HOST, NetworkWorld, OUTSIDE, Running, UPLINK, configure, start, within};

/// The measured container's ports; the others have those below.
const FIRST: u16 = 20_000;

/// A container that a data path has connected.
pub struct Member {
    pub id: ContainerId,
    pub netns: OwnedFd,
    pub attached: Attached,
    /// From making its namespace to being connected.
    pub took: Duration,
}

pub struct Way {
    pub name: String,
    pub world: NetworkWorld,
    pub datapath: Option<Datapath>,
    pub members: Vec<Member>,
    /// Where the server is; None: on the host.
    inside: Option<OwnedFd>,
    /// Four ports of the server, from this one.
    pub port: u16,
    servers: Vec<Running>,
}

impl Way {
    fn new(name: String) -> Self {
        Self {
            name,
            world: NetworkWorld::new(),
            datapath: None,
            members: Vec::new(),
            inside: None,
            port: FIRST,
            servers: Vec::new(),
        }
    }

    /// The namespace of the server.
    pub fn server(&self) -> &OwnedFd {
        let member = self.members.last().map(|member| &member.netns);
        self.inside.as_ref().or(member).unwrap_or(&self.world.host)
    }

    fn serve(mut self) -> Self {
        let server = start(
            self.server(),
            &format!("iperf3 -s -p {} --logfile /dev/null", self.port),
        );
        self.servers.push(server);
        // It says nothing when it is ready.
        std::thread::sleep(Duration::from_millis(200));
        self
    }

    /// No container at all: the least there is.
    pub fn host_direct() -> Self {
        Self::new("host".to_owned()).serve()
    }

    pub fn mapped(containers: u16) -> Self {
        let mut way = Self::new(format!("mapped {containers}"));
        way.open();
        for number in 0..containers {
            way.attach(number, &Bandwidth::default());
        }
        way.port = FIRST + (containers - 1) * 40;
        way.serve()
    }

    pub fn empty(name: &str) -> Self {
        let mut way = Self::new(name.to_owned());
        way.open();
        way
    }

    fn open(&mut self) {
        let config = Config {
            instance: "bench".to_owned(),
            pins: self.world.bpffs().join("pins"),
            uplinks: vec![UPLINK.to_owned()],
            uplink_rate: None,
        };
        let datapath = within(&self.world.host, || Datapath::open(config));
        self.datapath = Some(datapath.expect("a data path"));
    }

    /// Connects one more: 8 ports to listen at from `FIRST` + 40 * number, and 32 to connect from.
    pub fn attach(&mut self, number: u16, bandwidth: &Bandwidth) {
        let first = FIRST + number * 40;
        let range = |first, count| PortRange::new(first, first + count - 1).expect("a range");
        let id: ContainerId = format!("bench{number}").parse().expect("a name");
        let grant = PortGrant {
            allotted: PortRanges::from(range(first, 8)),
            ephemeral: Some(range(first + 8, 32)),
        };
        let datapath = self.datapath.as_ref().expect("a data path");
        let member = within(&self.world.host, || {
            let begun = Instant::now();
            let netns = namespace::create().expect("a namespace");
            let request = Attach {
                id: &id,
                netns: netns.as_fd(),
                grant: &grant,
                bandwidth,
            };
            let attached = datapath.attach(&request).expect("a connected container");
            let took = begun.elapsed();
            (netns, attached, took)
        });
        let (netns, attached, took) = member;
        self.members.push(Member {
            id,
            netns,
            attached,
            took,
        });
    }

    /// Docker's: a bridge, an address of its own for the container, a rule of nftables for each container's port.
    pub fn bridge(containers: u16) -> Self {
        let mut way = Self::new(format!("bridge {containers}"));
        let container = namespace::create().expect("a namespace");
        let host = &way.world.host;
        join(host, &container, "veth0");
        for command in [
            "ip link add br0 type bridge",
            "ip link set veth0 master br0",
            "ip link set br0 up",
            "ip addr add 172.18.0.1/16 dev br0",
            "sysctl -q -w net.ipv4.ip_forward=1",
        ] {
            configure(host, command);
        }
        for command in [
            "ip addr add 172.18.0.2/16 dev eth0",
            "ip route add default via 172.18.0.1",
        ] {
            configure(&container, command);
        }
        let mut rules =
            String::from("table ip nat {\n chain prerouting {\n  type nat hook prerouting priority -100;\n");
        for number in (0..containers).rev() {
            // The measured one is the last.
            let first = FIRST + number * 40;
            let to = if number == 0 {
                "172.18.0.2".to_owned()
            } else {
                format!("172.19.{}.{}", number / 250, number % 250 + 1)
            };
            for protocol in ["tcp", "udp"] {
                rules += &format!("  {protocol} dport {first}-{} dnat to {to}\n", first + 7);
            }
        }
        rules += " }\n chain postrouting {\n  type nat hook postrouting priority 100;\n  oifname \"uplink\" ip saddr 172.18.0.0/16 masquerade\n }\n}\n";
        way.batch("nft -f", &rules);
        way.inside = Some(container);
        way.serve()
    }

    /// Mesos': the host's address in the container, and u32 filters as its isolator makes them: for each of a container's
    /// two port ranges one at the uplink (header length, MAC, address, port), three at its veth.
    pub fn u32_chain(containers: u16) -> Self {
        let mut way = Self::new(format!("u32 {containers}"));
        let container = namespace::create().expect("a namespace");
        let host = &way.world.host;
        join(host, &container, "veth0");
        let mac = |namespace: &OwnedFd, interface: &str| {
            let shown = support::network::run(namespace, &format!("ip -br link show {interface}"));
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            shown.split_whitespace().nth(2).unwrap_or_default().to_owned()
        };
        let own = mac(host, UPLINK);
        configure(&container, &format!("ip link set eth0 address {own}"));
        let neighbour = mac(&way.world.outside, "eth0");
        for command in [
            format!("ip addr add {HOST}/24 dev eth0"),
            format!("ip neigh add {OUTSIDE} lladdr {neighbour} dev eth0"),
        ] {
            configure(&container, &command);
        }
        for command in ["tc qdisc add dev uplink clsact", "tc qdisc add dev veth0 clsact"] {
            configure(host, command);
        }
        let digits = own.replace(':', "");
        let (high, low) = digits.split_at(4);
        let mut filters = String::new();
        for number in (0..containers).rev() {
            // Aligned as u32 needs them. The measured one is the last.
            let allotted = FIRST + number * 8;
            let ephemeral = 28_672 + number * 32;
            for (port, mask) in [(allotted, "0xfff8"), (ephemeral, "0xffe0")] {
                filters += &format!(
                    "filter add dev uplink ingress protocol ip prio 3 u32 match u16 0x{high} 0xffff at -14 \
                     match u32 0x{low} 0xffffffff at -12 match u8 5 0x0f at 0 match ip dst {HOST} \
                     match ip dport {port} {mask} action mirred egress redirect dev veth0\n"
                );
            }
        }
        for (port, mask) in [(FIRST, "0xfff8"), (28_672, "0xffe0")] {
            for (prio, address, to) in [
                (3, format!("match ip dst {HOST}"), "lo"),
                (3, "match ip dst 127.0.0.1".to_owned(), "lo"),
                (4, String::new(), "uplink"),
            ] {
                filters += &format!(
                    "filter add dev veth0 ingress protocol ip prio {prio} u32 match u8 5 0x0f at 0 {address} \
                     match ip sport {port} {mask} action mirred egress redirect dev {to}\n"
                );
            }
        }
        way.batch("tc -batch", &filters);
        way.inside = Some(container);
        way.serve()
    }

    fn batch(&self, command: &str, text: &str) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("a file");
        configure(&self.world.host, &format!("{command} {}", file.path().display()));
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.servers.clear();
        if let Some(datapath) = self.datapath.take() {
            let closed = within(&self.world.host, || datapath.close(false));
            closed.expect("the data path closes");
        }
    }
}

/// A veth from the host to eth0 of a container.
fn join(host: &OwnedFd, container: &OwnedFd, name: &str) {
    let resident = start(container, "sleep 60");
    let pid = resident.0.id();
    configure(
        host,
        &format!("ip link add {name} type veth peer name eth0 netns {pid}"),
    );
    configure(host, &format!("ip link set {name} up"));
    for interface in ["lo", "eth0"] {
        configure(container, &format!("ip link set {interface} up"));
    }
}
