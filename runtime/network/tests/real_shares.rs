//! A full uplink, shared out between containers, on the real kernel. Needs root, iperf3, ip and tc.

mod harness;

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Container, OUTSIDE, World, attach_with, chain, inside, on_host_ok, skip, text};
use model::{Bandwidth, BitsPerSecond};
use network::{Config, Datapath, Known, NetworkError};
use support::eventually;
use support::network::start;

const MBIT: u64 = 1_000_000;
/// Wire bytes over payload of a full TCP segment with timestamps.
const TCP_HEADERS: f64 = 1514.0 / 1448.0;
const RATE: u64 = 100 * MBIT;

fn sharing(world: &World) -> Config {
    sharing_a_line(world, RATE)
}

fn sharing_a_line(world: &World, rate: u64) -> Config {
    Config {
        uplink_rate: Some(BitsPerSecond(rate)),
        ..world.config()
    }
}

/// A hundredth of a line that senders here can fill: those of an emulated machine make some 60 Mbit/s together.
fn part() -> u64 {
    MBIT / if support::owns_the_machine() { 10 } else { 1 }
}

fn open(config: Config) -> Datapath {
    Datapath::open(config).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn share(weight: u32, guarantee: Option<u64>) -> Bandwidth {
    Bandwidth {
        weight: Some(weight),
        egress_min: guarantee.map(|mbit| BitsPerSecond(mbit * MBIT)),
        ..Bandwidth::default()
    }
}

/// With a guarantee in hundredths of the line.
fn share_of_line(weight: u32, guarantee: u64) -> Bandwidth {
    Bandwidth {
        egress_min: Some(BitsPerSecond(guarantee * part())),
        ..share(weight, None)
    }
}

/// What each sends to the outside while all of them do, in hundredths of the line on the wire. `None`: the host.
fn together(world: &World, senders: &[(Option<&OwnedFd>, u32)]) -> Vec<f64> {
    thread::scope(|scope| {
        let running: Vec<_> = senders
            .iter()
            .enumerate()
            .map(|(number, (netns, streams))| {
                let port = 5_300 + number;
                let server = start(&world.outside, &format!("iperf3 -s -p {port}"));
                let command = format!("iperf3 -c {OUTSIDE} -p {port} -J -C cubic -O 1 -t 3 -P {streams}");
                let host = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
                scope.spawn(move || {
                    // Until the transfer is over; then it is ended and waited for, so that the port is free for the next.
                    let _server = server;
                    match netns {
                        Some(netns) => transfer(netns, &command),
                        None => transfer(&OwnedFd::from(host), &command),
                    }
                })
            })
            .collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn transfer(netns: &OwnedFd, command: &str) -> f64 {
    // The server needs a moment; a refused connection says so at once.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let output = inside(netns, command);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if let Some(bits) = answer["end"]["sum_received"]["bits_per_second"].as_f64() {
            return bits / part() as f64 * TCP_HEADERS;
        }
        assert!(Instant::now() < deadline, "{command}: {}", text(&output));
        thread::sleep(Duration::from_millis(50));
    }
}

/// Of a container with weight 100 and this guarantee, for a successor.
fn known(one: &Container, mbit: u64) -> Known {
    one.known(share(100, Some(mbit)))
}

fn trouble(datapath: &Datapath) -> String {
    let health = datapath.health().unwrap();
    health.into_iter().map(|one| one.trouble).collect()
}

/// The class of a container at an uplink, as tc shows it.
fn class_of(interface: &str, one: &Container) -> Option<String> {
    let shown = on_host_ok(&format!("tc class show dev {interface}"));
    let minor = format!(":{:x} parent", one.attached.slot);
    shown
        .lines()
        .find(|line| line.contains(&minor))
        .map(ToOwned::to_owned)
}

fn root_of(interface: &str) -> String {
    on_host_ok(&format!("tc qdisc show dev {interface} root"))
}

#[test]
fn a_full_uplink_is_shared_by_weight_and_what_one_leaves_is_the_others() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = open(sharing_a_line(&world, 100 * part()));
    let light = attach_with(&datapath, 1, &share(100, None));
    let heavy = attach_with(&datapath, 2, &share(300, None));
    // More connections are no larger share.
    // Where others use the processors one may begin later than the rest, or be held up.
    eventually("both have sent at once, by their weights", || {
        let both = together(&world, &[(Some(&light.netns), 8), (Some(&heavy.netns), 1)]);
        let (sum, ratio) = (both[0] + both[1], both[1] / both[0]);
        eprintln!("100 and 300: {both:.1?}, ratio {ratio:.2}");
        ((92.0..103.0).contains(&sum) && (2.6..3.4).contains(&ratio)).then_some(())
    });
    let alone = together(&world, &[(Some(&light.netns), 1)]);
    eprintln!("alone: {alone:.1?}");
    assert!(alone[0] > 92.0, "{alone:?}");

    // Changed while it runs, and the smallest weight of all with it.
    datapath.update(&heavy.id, &share(50, None)).unwrap();
    eventually("all of them have sent at once, by their weights", || {
        let with_host = together(
            &world,
            &[(Some(&light.netns), 1), (Some(&heavy.netns), 4), (None, 2)],
        );
        eprintln!("100, 50 and the host: {with_host:.1?}");
        let by_weight = with_host[0] > with_host[1] * 1.5;
        // A twentieth is the host's in any case.
        (with_host.iter().sum::<f64>() < 103.0 && by_weight && with_host[2] > 5.0).then_some(())
    });
    datapath.close(false).unwrap();
    assert!(!root_of("up0").contains("htb"), "{}", root_of("up0"));
}

#[test]
fn a_guarantee_is_kept_beside_others_with_more_weight_and_can_not_be_sold_twice() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = open(sharing_a_line(&world, 100 * part()));
    let promised = attach_with(&datapath, 1, &share_of_line(1, 60));
    let heavy = attach_with(&datapath, 2, &share(1_000, None));
    let both = together(&world, &[(Some(&promised.netns), 1), (Some(&heavy.netns), 4)]);
    eprintln!("60 of 100 guaranteed: {both:.1?}");
    assert!(both[0] > 57.0 && both[1] > 30.0, "{both:?}");

    let error = datapath.update(&heavy.id, &share_of_line(1_000, 21)).unwrap_err();
    assert!(matches!(error, NetworkError::Oversold { .. }), "{error}");
    let sold = BitsPerSecond(60 * part()).to_string();
    assert!(error.to_string().contains(&sold), "{error}");
    datapath.update(&heavy.id, &share_of_line(1_000, 20)).unwrap();
    let ingress = Bandwidth {
        ingress_min: Some(BitsPerSecond(MBIT)),
        ..Bandwidth::default()
    };
    let error = datapath.update(&heavy.id, &ingress).unwrap_err();
    assert!(matches!(error, NetworkError::Unenforceable { .. }), "{error}");
    // What a container had is free when it is gone.
    datapath.detach(&promised.id).unwrap();
    datapath.update(&heavy.id, &share_of_line(1, 80)).unwrap();
    datapath.close(false).unwrap();
}

#[test]
fn disciplines_of_others_stay_and_ours_outlives_the_agent_until_it_is_not_wanted() {
    if skip() {
        return;
    }
    let world = World::new();
    on_host_ok("tc qdisc add dev up0 root handle 7: tbf rate 1gbit burst 100kb latency 10ms");
    // Nothing is shared out there: whoever asks for no guarantee does not mind.
    let datapath = open(sharing(&world));
    let weighed = attach_with(&datapath, 1, &share(100, None));
    let refused = datapath.update(&weighed.id, &share(100, Some(20))).unwrap_err();
    assert!(
        matches!(refused, NetworkError::ForeignDiscipline { .. }) && refused.to_string().contains("tbf"),
        "{refused}"
    );
    assert!(trouble(&datapath).contains("tbf"), "{}", trouble(&datapath));
    datapath.close(false).unwrap();
    assert!(root_of("up0").contains("tbf 7:"), "{}", root_of("up0"));
    // Without the flag a share is refused.
    let datapath = open(world.config());
    let plain = attach_with(&datapath, 1, &Bandwidth::default());
    let error = datapath.update(&plain.id, &share(10, None)).unwrap_err();
    assert!(error.to_string().contains("--uplink_rate"), "{error}");
    datapath.close(false).unwrap();
    assert!(root_of("up0").contains("tbf 7:"), "{}", root_of("up0"));
    on_host_ok("tc qdisc del dev up0 root");

    let datapath = open(sharing(&world));
    let kept = attach_with(&datapath, 1, &share(100, Some(20)));
    let gone = attach_with(&datapath, 2, &share(100, None));
    let classes = || on_host_ok("tc class show dev up0");
    let class = |slot: u32| format!(":{slot:x} parent");
    drop(datapath);
    // Its successor, which knows of one of them.
    let datapath = open(sharing(&world));
    datapath.adopt(vec![known(&kept, 20)]).unwrap();
    datapath.adopt_groups(&[]);
    assert!(classes().contains(&class(kept.attached.slot)), "{}", classes());
    assert!(!classes().contains(&class(gone.attached.slot)), "{}", classes());
    // What somebody has removed comes back with all classes, and not in the place of somebody's.
    on_host_ok("tc qdisc del dev up0 root");
    datapath.refresh().unwrap();
    assert!(classes().contains("ceil 100Mbit"), "{}", classes());
    on_host_ok("tc qdisc replace dev up0 root handle 7: tbf rate 1gbit burst 100kb latency 10ms");
    assert!(datapath.refresh().is_err());
    assert!(trouble(&datapath).contains("tbf"), "{}", trouble(&datapath));
    assert!(root_of("up0").contains("tbf 7:"), "{}", root_of("up0"));
    // Nobody is kept from coming and going by that, but who wants a guarantee; nor is a successor from what runs.
    let other = attach_with(&datapath, 3, &share(100, None));
    datapath.detach(&other.id).unwrap();
    drop(datapath);
    let datapath = open(sharing(&world));
    assert_eq!(datapath.adopt(vec![known(&kept, 20)]).unwrap().kept.len(), 1);
    datapath.adopt_groups(&[]);
    datapath.update(&kept.id, &share(50, Some(20))).unwrap();
    on_host_ok("tc qdisc del dev up0 root");
    datapath.refresh().unwrap();
    assert!(classes().contains(&class(kept.attached.slot)), "{}", classes());
    assert_eq!(trouble(&datapath), "");
    drop(datapath);
    // One that was started without the flag takes it away, and keeps the container.
    let datapath = open(world.config());
    assert_eq!(
        datapath.adopt(vec![known(&kept, 20)]).unwrap().kept,
        std::slice::from_ref(&kept.id)
    );
    assert!(!root_of("up0").contains("htb"), "{}", root_of("up0"));
    assert!(transfer_of_one(&world, &kept.netns) > 150.0);
    datapath.close(false).unwrap();
}

fn transfer_of_one(world: &World, netns: &OwnedFd) -> f64 {
    together(world, &[(Some(netns), 1)])[0]
}

#[test]
fn what_was_promised_of_a_faster_line_is_taken_over_cut_and_sold_to_nobody_else() {
    if skip() {
        return;
    }
    let world = World::new();
    let datapath = open(sharing(&world));
    let one = attach_with(&datapath, 1, &share(100, Some(30)));
    let other = attach_with(&datapath, 2, &share(100, Some(50)));
    drop(datapath);
    let slower = Config {
        uplink_rate: Some(BitsPerSecond(50 * MBIT)),
        ..world.config()
    };
    let datapath = open(slower);
    let adopted = datapath.adopt(vec![known(&one, 30), known(&other, 50)]).unwrap();
    datapath.adopt_groups(&[]);
    assert_eq!((adopted.kept.len(), adopted.lost.len()), (2, 0));
    // 40 Mbit/s are dealt out, 30:50.
    let rate = |one| class_of("up0", one).unwrap();
    assert!(rate(&one).contains("rate 15Mbit ceil 50Mbit"), "{}", rate(&one));
    assert!(
        rate(&other).contains("rate 25Mbit ceil 50Mbit"),
        "{}",
        rate(&other)
    );
    assert!(trouble(&datapath).contains("80Mbit"), "{}", trouble(&datapath));
    let third = attach_with(&datapath, 3, &share(100, None));
    let refused = datapath.update(&third.id, &share(100, Some(1))).unwrap_err();
    assert!(matches!(refused, NetworkError::Oversold { .. }), "{refused}");
    // Who asks for nothing more is not refused.
    datapath.update(&other.id, &share(7, Some(40))).unwrap();
    datapath.detach(&other.id).unwrap();
    assert_eq!(trouble(&datapath), "");
    datapath.update(&third.id, &share(100, Some(10))).unwrap();
    datapath.close(false).unwrap();
}

#[test]
fn an_interface_that_is_no_uplink_any_more_has_the_kernels_discipline_again() {
    if skip() {
        return;
    }
    let world = World::new();
    world.uplink("up1", "10.78.0", "fd78::");
    let at = |uplink: &str| Config {
        uplinks: vec![uplink.to_owned()],
        ..sharing(&world)
    };
    // Its agent is gone without a word.
    drop(open(at("up0")));
    assert!(root_of("up0").contains("htb"), "{}", root_of("up0"));
    let datapath = open(at("up1"));
    assert!(!root_of("up0").contains("htb"), "{}", root_of("up0"));
    assert!(root_of("up1").contains("htb"), "{}", root_of("up1"));
    drop(datapath);
    // At the end too, wherever it is.
    let datapath = open(at("up0"));
    let root = root_of("up0");
    let handle = root.split(' ').nth(2).unwrap();
    on_host_ok(&format!("tc qdisc add dev up1 root handle {handle} htb"));
    datapath.close(false).unwrap();
    for interface in ["up0", "up1"] {
        assert!(!root_of(interface).contains("htb"), "{}", root_of(interface));
    }
}

#[test]
fn one_uplink_that_can_not_be_written_keeps_no_other_from_its_rates_and_is_made_right_later() {
    if skip() {
        return;
    }
    let world = World::new();
    world.uplink("up1", "10.78.0", "fd78::");
    let datapath = open(Config {
        uplinks: vec!["up1".to_owned(), "up0".to_owned()],
        ..sharing(&world)
    });
    let light = attach_with(&datapath, 1, &share(100, None));
    assert!(class_of("up1", &light).is_some());
    // Removed, and not looked at since: it comes back with all classes.
    on_host_ok("tc qdisc del dev up0 root");
    let heavy = attach_with(&datapath, 2, &share(300, None));
    for (one, rate) in [(&light, "rate 20Mbit"), (&heavy, "rate 60Mbit")] {
        let class = class_of("up0", one).unwrap();
        assert!(class.contains(rate), "{class}");
    }
    // One that was made half: a class and what sorts are missing.
    on_host_ok("tc qdisc del dev up0 root");
    let root = root_of("up1");
    let handle = root.split(' ').nth(2).unwrap();
    on_host_ok(&format!("tc qdisc add dev up0 root handle {handle} htb"));
    drop(datapath);
    let datapath = open(Config {
        uplinks: vec!["up1".to_owned(), "up0".to_owned()],
        ..sharing(&world)
    });
    assert!(on_host_ok("tc filter show dev up0").contains("bpf"));
    let of = |one: &Container, weight| one.known(share(weight, None));
    datapath.adopt(vec![of(&light, 100), of(&heavy, 300)]).unwrap();
    assert_eq!(trouble(&datapath), "");
    // The first one is gone; the second gets what changes.
    on_host_ok("ip link del up1");
    datapath.update(&heavy.id, &share(100, None)).unwrap();
    for one in [&light, &heavy] {
        let class = class_of("up0", one).unwrap();
        assert!(class.contains("rate 40Mbit"), "{class}");
    }
    datapath.detach(&heavy.id).unwrap();
    assert!(class_of("up0", &heavy).is_none());
}
