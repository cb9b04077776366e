//! The data path of one agent: open, attach, detach, update, close.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bpf::{Entry, Slot, Steering, SteeringError};
use kernel::netlink::{NetlinkError, NewVeth, RouteSocket, namespace, sysctl};
use model::{Bandwidth, ContainerId};

use crate::book::{Book, Member};
use crate::host_network::HostNetwork;
use crate::inside::{self, InsideError, LOOPBACK, Settings};
use crate::shaper::{self, Shaper};
use crate::shares::Shares;
use crate::stack::Stacks;
use crate::{Attach, Attached, Config, NetworkError};

/// The MTU of a veth's end on the host: what a container sends to the host itself or to its neighbours comes from its
/// loopback, whose packets are larger than the uplink's.
const HOST_END_MTU: u32 = 65535;
/// The veths' ends on the host; `DOOMED_GROUP` those that are deleted together.
pub const GROUP: u32 = 0x6268;
pub(crate) const DOOMED_GROUP: u32 = 0x6269;

/// See the head of the crate. Methods may be called from any thread that is in the network namespace where it was opened.
#[derive(Debug)]
pub struct Datapath {
    pub(crate) config: Config,
    pub(crate) steering: Steering,
    pub(crate) shaper: Shaper,
    pub(crate) shares: Option<Shares>,
    pub(crate) stacks: Stacks,
    carried: Settings,
    pub(crate) state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub socket: RouteSocket,
    pub host: HostNetwork,
    pub book: Book,
    /// What containers of an earlier agent have on their eth0.
    pub former_addresses: Vec<IpAddr>,
}

pub(crate) fn programs(operation: impl Into<String>) -> impl FnOnce(SteeringError) -> NetworkError {
    move |source| NetworkError::Programs {
        operation: operation.into(),
        source,
    }
}

pub(crate) fn netlink(operation: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetworkError {
    move |source| NetworkError::Netlink {
        operation: operation.into(),
        source,
    }
}

impl Datapath {
    /// Loads the programs, or takes over what an earlier agent has left; attaches them to the uplinks and to loopback.
    /// Idempotent. Containers of an earlier agent stay connected; [`adopt`](Self::adopt) makes them known.
    pub fn open(config: Config) -> Result<Self, NetworkError> {
        let word = &config.instance;
        let fits = !word.is_empty()
            && word.len() <= 6
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !fits {
            return Err(NetworkError::Instance(word.clone()));
        }
        let mut socket = RouteSocket::open().map_err(netlink("open the network's socket"))?;
        let host = HostNetwork::read(&mut socket, &config.uplinks)?;
        let steering = Steering::open(&config.pins).map_err(programs("load the network's programs"))?;
        let shaper = Shaper::open(steering.directory())?;
        let shares = crate::sharing::settle_for(&config, steering.directory(), &shaper, &host)?;
        let inherited = steering
            .slots()
            .map_err(programs("read the places of containers"))?;
        let inherited = inherited.into_iter().map(|(slot, _)| slot).collect();
        let former_addresses = former_addresses(&steering)?;
        let datapath = Self {
            carried: carried_settings()?,
            config,
            steering,
            shaper,
            shares,
            stacks: Stacks::default(),
            state: Mutex::new(State {
                socket,
                host,
                book: Book::new(inherited),
                former_addresses,
            }),
        };
        datapath.publish_host(&datapath.lock().host)?;
        Ok(datapath)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // What a panicking caller left undone is found by the next adopt or refresh.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which mechanism holds ceilings here, in words.
    pub fn mechanism(&self) -> &shaper::Mechanism {
        self.shaper.mechanism()
    }

    /// The interfaces that containers share.
    pub fn uplinks(&self) -> Vec<String> {
        let state = self.lock();
        state
            .host
            .uplinks
            .iter()
            .map(|uplink| uplink.name.clone())
            .collect()
    }

    pub(crate) fn interface_name(&self, slot: u32) -> String {
        format!("bh{}-{slot:x}", self.config.instance)
    }

    /// Connects a container. An error leaves nothing behind.
    pub fn attach(&self, request: &Attach<'_>) -> Result<Attached, NetworkError> {
        let mut guard = self.lock();
        let State {
            socket, host, book, ..
        } = &mut *guard;
        let id = request.id;
        if book.members().contains_key(id) {
            return Err(NetworkError::AlreadyAttached(id.clone()));
        }
        for port in request.grant.all().ports() {
            if let Some(owner) = book.owner(port) {
                return Err(NetworkError::PortTaken {
                    id: id.clone(),
                    port,
                    owner: owner.clone(),
                });
            }
        }
        self.check(id, request.bandwidth)?;
        let slot = book
            .free_slot()
            .ok_or(NetworkError::Full(bpf::layout::SLOTS - 1))?;
        let netns = request
            .netns
            .try_clone_to_owned()
            .map_err(|source| NetworkError::Namespace {
                operation: format!("keep the network namespace of container {id}"),
                source,
            })?;
        let interface = self.interface_name(slot);
        let made = self.connect(socket, host, request, slot, &interface);
        let (ifindex, peer_ifindex) = match made {
            Ok(made) => made,
            Err(error) => {
                self.undo(socket, host, slot, &interface, request);
                return Err(error);
            }
        };
        let addresses = host.shared();
        let attached = Attached {
            slot,
            interface: interface.clone(),
            ifindex,
            addresses: addresses.clone(),
            mtu: host.primary_mtu(),
        };
        let member = Member {
            slot,
            interface,
            ifindex,
            peer_ifindex,
            grant: request.grant.clone(),
            bandwidth: *request.bandwidth,
            netns: Some(netns),
            addresses,
        };
        book.insert(id.clone(), member);
        Ok(attached)
    }

    fn connect(
        &self,
        socket: &mut RouteSocket,
        host: &HostNetwork,
        request: &Attach<'_>,
        slot: u32,
        interface: &str,
    ) -> Result<(u32, u32), NetworkError> {
        let id = request.id;
        let uplink = host.primary().ok_or(NetworkError::NoUplink)?;
        let making = || netlink(format!("make interface {interface} for container {id}"));
        let veth = NewVeth {
            name: interface,
            peer_name: inside::INTERFACE,
            peer_namespace: request.netns,
            mac: uplink.mac,
            mtu: HOST_END_MTU,
            peer_mtu: uplink.mtu,
            group: GROUP,
        };
        let mut made = socket.create_veth(&veth);
        if made.as_ref().err().and_then(NetlinkError::errno) == Some(kernel::Errno::EEXIST) {
            // A former container's, whose namespace somebody still holds.
            self.delete_leftover(socket, interface).map_err(making())?;
            made = socket.create_veth(&veth);
        }
        made.map_err(making())?;
        let link = socket.link(interface).map_err(making())?;
        let ifindex = link.map_or(0, |link| link.index);
        socket
            .set_alias(ifindex, &alias(&self.config.instance, id))
            .map_err(making())?;
        // The host never speaks by this end itself: no address, no neighbours.
        sysctl::write(&format!("ipv6/conf/{interface}/disable_ipv6"), "1").map_err(|source| {
            NetworkError::Namespace {
                operation: format!("turn IPv6 off on interface {interface} of container {id}"),
                source,
            }
        })?;
        let attaching = || programs(format!("attach the network's programs for container {id}"));
        self.steering.attach(Entry::Veth, ifindex).map_err(attaching())?;
        let peer_ifindex = self.furnish(host, request)?;
        self.steering.clear_counters(slot).map_err(attaching())?;
        let mut value = Slot {
            ifindex,
            flags: 0,
            peer_ifindex,
            mac: uplink.mac,
            class_major: self.shares.as_ref().map_or(0, Shares::major),
        };
        value.flags = self.shaper.apply(
            &shaper::Link {
                id,
                slot,
                ifindex,
                peer_ifindex,
                mtu: uplink.mtu,
                netns: Some(request.netns),
            },
            request.bandwidth,
        )?;
        self.share_mapped(host, id, slot, request.bandwidth)?;
        self.steering.set_slot(slot, &value).map_err(attaching())?;
        self.steering
            .write("by_ifindex", &ifindex.to_ne_bytes(), &slot.to_ne_bytes())
            .map_err(attaching())?;
        socket.set_up(ifindex).map_err(making())?;
        // Last: from here on packets find their way.
        self.steering
            .set_owner(request.grant.all().ports(), slot)
            .map_err(attaching())?;
        Ok((ifindex, peer_ifindex))
    }

    /// An interface of this name that says it is ours.
    fn delete_leftover(&self, socket: &mut RouteSocket, interface: &str) -> Result<(), NetlinkError> {
        let link = socket.link(interface)?.filter(|link| link.veth);
        match link.filter(|link| is_ours(&self.config.instance, link.alias.as_deref())) {
            Some(link) => socket.delete_link(link.index),
            None => Ok(()),
        }
    }

    fn furnish(&self, host: &HostNetwork, request: &Attach<'_>) -> Result<u32, NetworkError> {
        let result = namespace::within(request.netns, || {
            let eth0 = inside::furnish(host, request.grant, &self.carried)?;
            self.steering
                .attach(Entry::ContainerLoopback, LOOPBACK)
                .map_err(InsideError::Program)?;
            Ok(eth0)
        });
        inside_result(result, request.id)
    }

    /// What an attach that failed has made. Its own error is the one that is told.
    fn undo(
        &self,
        socket: &mut RouteSocket,
        host: &HostNetwork,
        slot: u32,
        interface: &str,
        request: &Attach<'_>,
    ) {
        let link = socket.link(interface).ok().flatten();
        // What has the name may be somebody else's.
        let link = link.filter(|link| link.veth && link.group == GROUP);
        let ifindex = link.as_ref().map_or(0, |link| link.index);
        let cleared = self.clear(slot, ifindex, request.grant.all().ports());
        let cleared = cleared.and(self.unshare(host, request.id));
        let deleted = link.map_or(Ok(()), |link| socket.delete_link(link.index));
        if let Err(error) = cleared {
            tracing::warn!(container = %request.id, %error, "an attach that failed left entries behind");
        }
        if let Err(error) = deleted {
            tracing::warn!(container = %request.id, %error, "an attach that failed left its interface behind");
        }
    }

    /// Takes a slot out of all maps: from here on nothing goes in or out.
    pub(crate) fn clear(
        &self,
        slot: u32,
        ifindex: u32,
        ports: impl Iterator<Item = u16>,
    ) -> Result<(), NetworkError> {
        let wrong = || programs(format!("take place {slot} out of the network's maps"));
        self.steering.set_owner(ports, 0).map_err(wrong())?;
        self.steering.set_slot(slot, &Slot::default()).map_err(wrong())?;
        if ifindex != 0 {
            self.steering
                .remove("by_ifindex", &ifindex.to_ne_bytes())
                .map_err(wrong())?;
        }
        self.shaper.remove(slot)
    }

    /// Disconnects a container; one that isn't connected is no error. Its interface goes with its namespace, when the
    /// last process and descriptor of that are gone: deleting it would wait for the rtnl lock and hold it for milliseconds.
    /// Until then a sweep finds it, and its slot and name rest.
    pub fn detach(&self, id: &ContainerId) -> Result<(), NetworkError> {
        let mut guard = self.lock();
        let State {
            socket, host, book, ..
        } = &mut *guard;
        self.unshare(host, id)?;
        let Some(member) = book.members().get(id) else {
            return Ok(());
        };
        self.clear(member.slot, member.ifindex, member.grant.all().ports())?;
        if member.netns.is_none() {
            // Whoever holds its namespace is unknown.
            socket
                .delete_link(member.ifindex)
                .map_err(netlink(format!("delete the interface of container {id}")))?;
        }
        book.remove(id);
        drop(guard);
        self.stacks.forget(id);
        Ok(())
    }

    /// New ceilings for a container that is connected.
    pub fn update(&self, id: &ContainerId, bandwidth: &Bandwidth) -> Result<(), NetworkError> {
        let mut guard = self.lock();
        let State { host, book, .. } = &mut *guard;
        let member = book
            .members_mut()
            .get_mut(id)
            .ok_or_else(|| NetworkError::NotAttached(id.clone()))?;
        self.check(id, bandwidth)?;
        self.share_mapped(host, id, member.slot, bandwidth)?;
        let shaped = self
            .shaper
            .apply(&shaping_link(id, member, host.primary_mtu()), bandwidth);
        if shaped.is_err() {
            self.share_as_before(host, id, member.slot, &member.bandwidth)?;
        }
        let flags = shaped?;
        member.bandwidth = *bandwidth;
        self.set_flags(id, member.slot, flags)
    }

    /// The ceilings that a container is known to have, set again.
    pub(crate) fn apply_bandwidth(&self, state: &State, id: &ContainerId) -> Result<(), NetworkError> {
        let Some(member) = state.book.members().get(id) else {
            return Ok(());
        };
        let link = shaping_link(id, member, state.host.primary_mtu());
        let flags = self.shaper.apply(&link, &member.bandwidth)?;
        self.set_flags(id, member.slot, flags)
    }

    fn set_flags(&self, id: &ContainerId, number: u32, flags: u32) -> Result<(), NetworkError> {
        let wrong = || programs(format!("change the ceilings of container {id}"));
        let mut slot = self.steering.slot(number).map_err(wrong())?;
        slot.flags = flags;
        self.steering.set_slot(number, &slot).map_err(wrong())
    }

    /// The end. `keep`: containers stay connected, for the next agent. Else everything of this instance is taken away.
    pub fn close(&self, keep: bool) -> Result<(), NetworkError> {
        if keep {
            return Ok(());
        }
        let ids: Vec<ContainerId> = self.lock().book.members().keys().cloned().collect();
        for id in ids {
            self.detach(&id)?;
        }
        self.sweep(&[])?;
        crate::roots::remove_but(&self.config.instance, &[])?;
        for entry in [Entry::Uplink, Entry::HostLoopback] {
            for (index, _) in self.steering.pinned_at(entry) {
                self.unpin(entry, index)?;
            }
        }
        self.steering
            .remove_pins()
            .map_err(programs("remove the network's programs and pins"))
    }
}

pub(crate) fn shaping_link<'a>(id: &'a ContainerId, member: &'a Member, mtu: u32) -> shaper::Link<'a> {
    shaper::Link {
        id,
        slot: member.slot,
        ifindex: member.ifindex,
        peer_ifindex: member.peer_ifindex,
        mtu,
        netns: member.netns.as_ref().map(AsFd::as_fd),
    }
}

/// What an interface says of whose it is.
pub(crate) fn alias(instance: &str, id: &ContainerId) -> String {
    format!("bulkhead {instance} {id}")
}

pub(crate) fn is_ours(instance: &str, alias: Option<&str>) -> bool {
    alias.is_some_and(|alias| alias.starts_with(&format!("bulkhead {instance} ")))
}

pub(crate) fn inside_result<T>(
    result: std::io::Result<Result<T, InsideError>>,
    id: &ContainerId,
) -> Result<T, NetworkError> {
    result
        .map_err(|source| NetworkError::Namespace {
            operation: format!("enter the network namespace of container {id}"),
            source,
        })?
        .map_err(|source| NetworkError::Inside {
            id: id.clone(),
            source,
        })
}

/// The shared addresses that the maps have, before they are told the host's present ones.
fn former_addresses(steering: &Steering) -> Result<Vec<IpAddr>, NetworkError> {
    let all = steering
        .read_all("addresses")
        .map_err(programs("read the network's addresses"))?;
    let shared = all
        .iter()
        .filter(|(_, uplink)| uplink.iter().any(|byte| *byte != 0));
    Ok(shared
        .filter_map(|(key, _)| {
            let octets: [u8; 16] = key.as_slice().try_into().ok()?;
            Some(Ipv6Addr::from(octets).to_canonical())
        })
        .collect())
}

/// What a new namespace would have otherwise, compared once.
fn carried_settings() -> Result<Settings, NetworkError> {
    let failed = |source| NetworkError::Namespace {
        operation: "read the host's network settings".to_owned(),
        source,
    };
    let inside = |source: InsideError| failed(std::io::Error::other(source));
    let host = inside::settings().map_err(inside)?;
    let scratch = namespace::create().map_err(failed)?;
    let new = namespace::within(&scratch, inside::settings)
        .map_err(failed)?
        .map_err(inside)?;
    Ok(host
        .into_iter()
        .filter(|setting| !new.contains(setting))
        .collect())
}
