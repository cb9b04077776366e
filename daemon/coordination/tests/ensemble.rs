//! Election and detection on real ZooKeeper servers, with masters that are processes of their own and are stopped, frozen and killed.
//!
//! Each candidate writes down when it held the right to lead, by its own tenure; afterwards no two of them overlap.

mod candidate;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use candidate::{Candidate, master};
use coordination::{Candidacy, Contender, Detector, Place, Replicas, Settings};
use support::patience;
use support::zookeeper::{Ensemble, skip_without_zookeeper};

/// Six of the servers' ticks.
const SESSION: Duration = Duration::from_secs(3);

fn settings() -> Settings {
    Settings {
        session_timeout: SESSION,
    }
}

fn run(test: impl Future<Output = ()>) {
    net::run(net::Config::default(), test).unwrap();
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    net::timeout(patience(60), future)
        .await
        .unwrap_or_else(|_| panic!("did not come about: {what}"))
}

/// Waits for a state of which `look` makes something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(value) = look() {
                return value;
            }
            net::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(what, looking).await
}

fn zk(ensemble: &Ensemble, path: &str) -> coordination::ZkUrl {
    ensemble.url(path).parse().unwrap()
}

async fn raw(ensemble: &Ensemble) -> zookeeper_client::Client {
    candidate::raw(&ensemble.addresses()).await
}

/// One server for all of these: a JVM takes seconds to start.
#[test]
fn one_server() {
    if skip_without_zookeeper() {
        return;
    }
    let mut ensemble = Ensemble::start(1);
    run(async {
        znodes_are_those_of_mesos(&ensemble).await;
        a_withdrawal_hands_over_at_once(&ensemble).await;
        a_stranger_in_the_line_is_not_taken_for_a_master(&ensemble).await;
        credentials_protect_the_znodes(&ensemble).await;
        replicas_find_each_other(&ensemble).await;
        a_removed_znode_is_made_again(&ensemble).await;
        a_killed_leader_is_followed(&ensemble).await;
        a_frozen_leader_leads_no_more(&ensemble).await;
        a_restart_of_the_server_is_survived(&mut ensemble).await;
    });
}

async fn znodes_are_those_of_mesos(ensemble: &Ensemble) {
    let me = master(5050);
    let mut contender = Contender::start(zk(ensemble, "/mesos/one"), &me, settings());
    let mut detector = Detector::start(Place::ZooKeeper(zk(ensemble, "/mesos/one")), settings());
    let Candidacy::Elected(tenure) = soon("election", contender.changed()).await else {
        panic!("not elected")
    };
    assert!(tenure.holds());
    let leader = soon("detection", detector.changed()).await.unwrap();
    assert_eq!((leader.info, leader.term), (me.clone(), Some(tenure.term())));
    let raw = raw(ensemble).await;
    let names = raw.list_children("/mesos/one").await.unwrap();
    assert_eq!(names.len(), 1);
    let number = names[0].strip_prefix("json.info_").expect("Mesos' label");
    assert_eq!((number.len(), number.parse::<u64>().is_ok()), (10, true));
    let (text, stat) = raw.get_data(&format!("/mesos/one/{}", names[0])).await.unwrap();
    assert_eq!(u64::try_from(stat.czxid).unwrap(), tenure.term().0);
    assert_ne!(stat.ephemeral_owner, 0);
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (json["pid"].as_str(), json["ip"].as_u64()),
        (Some("master@127.0.0.1:5050"), Some(16_777_343))
    );
    contender.withdraw().await;
    assert!(!tenure.holds(), "leads on after it has left");
    assert_eq!(soon("no leader", detector.changed()).await, None);
}

async fn a_withdrawal_hands_over_at_once(ensemble: &Ensemble) {
    let (first, second) = (master(1), master(2));
    let mut leader = Contender::start(zk(ensemble, "/two"), &first, settings());
    let Candidacy::Elected(old) = soon("election", leader.changed()).await else {
        panic!("not elected")
    };
    let mut next = Contender::start(zk(ensemble, "/two"), &second, settings());
    assert_eq!(soon("a place in line", next.changed()).await, Candidacy::StandBy);
    let began = Instant::now();
    leader.withdraw().await;
    let Candidacy::Elected(new) = soon("election", next.changed()).await else {
        panic!("not elected")
    };
    println!("hand-over on a clean stop: {} ms", began.elapsed().as_millis());
    assert!(!old.holds() && new.holds() && new.term() > old.term());
    drop(next);
    net::yield_now().await;
    assert!(!new.holds(), "leads on though nobody contends");
}

async fn a_stranger_in_the_line_is_not_taken_for_a_master(ensemble: &Ensemble) {
    let raw = raw(ensemble).await;
    let persistent = zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
    for path in [
        "/three",
        "/three/log_replicas",
        "/three/info_0000000000",
        "/three/notes",
    ] {
        raw.create(path, b"\x0a\x04abcd", &persistent).await.unwrap();
    }
    let mut contender = Contender::start(zk(ensemble, "/three"), &master(3), settings());
    let detector = Detector::start(Place::ZooKeeper(zk(ensemble, "/three")), settings());
    assert_eq!(
        soon("a place in line", contender.changed()).await,
        Candidacy::StandBy
    );
    assert_eq!(detector.leader(), None);
    raw.delete("/three/info_0000000000", None).await.unwrap();
    assert!(matches!(
        soon("election", contender.changed()).await,
        Candidacy::Elected(_)
    ));
    until("detection", || detector.leader()).await;
}

async fn credentials_protect_the_znodes(ensemble: &Ensemble) {
    let with = |who: &str| {
        format!("zk://{who}@{}/secret", ensemble.addresses())
            .parse::<coordination::ZkUrl>()
            .unwrap()
    };
    let mut owner = Contender::start(with("ann:right"), &master(4), settings());
    let Candidacy::Elected(tenure) = soon("election", owner.changed()).await else {
        panic!("not elected")
    };
    let raw = raw(ensemble).await;
    let (acls, _) = raw.get_acl("/secret").await.unwrap();
    let mut rights: Vec<(&str, &str)> = acls
        .iter()
        .map(|acl| (acl.scheme(), acl.id().split(':').next().unwrap()))
        .collect();
    rights.sort_unstable();
    assert_eq!(rights, [("digest", "ann"), ("world", "anyone")]);
    let mut thief = Contender::start(with("bob:wrong"), &master(5), settings());
    // Reading is allowed to everybody: no credentials are needed to find the leader.
    let mut detector = Detector::start(Place::ZooKeeper(zk(ensemble, "/secret")), settings());
    assert_eq!(
        soon("detection", detector.changed()).await.and_then(|l| l.term),
        Some(tenure.term())
    );
    assert!(
        net::timeout(2 * SESSION, thief.changed()).await.is_err(),
        "joined without the right to"
    );
    assert!(tenure.holds());
}

async fn replicas_find_each_other(ensemble: &Ensemble) {
    let join = |own: &str| Replicas::join(zk(ensemble, "/log"), own.to_owned(), settings());
    let (one, mut two) = (join("10.0.0.1:5060"), join("10.0.0.2:5060"));
    let both = BTreeSet::from(["10.0.0.1:5060".to_owned(), "10.0.0.2:5060".to_owned()]);
    until("both replicas", || {
        (one.members() == both && two.members() == both).then_some(())
    })
    .await;
    drop(one);
    let after = async { while two.changed().await.len() != 1 {} };
    soon("the end of the other one", after).await;
}

async fn a_removed_znode_is_made_again(ensemble: &Ensemble) {
    let mut contender = Contender::start(zk(ensemble, "/five"), &master(6), settings());
    let Candidacy::Elected(old) = soon("election", contender.changed()).await else {
        panic!("not elected")
    };
    let raw = raw(ensemble).await;
    let names = raw.list_children("/five").await.unwrap();
    raw.delete(&format!("/five/{}", names[0]), None).await.unwrap();
    until("the end of the leadership", || (!old.holds()).then_some(())).await;
    let new = until("another election", || match contender.candidacy() {
        Candidacy::Elected(new) => Some(new),
        _ => None,
    });
    assert!(new.await.term() > old.term());
}

async fn a_killed_leader_is_followed(ensemble: &Ensemble) {
    let url = ensemble.url("/six");
    let mut first = Candidate::start(&url, SESSION, 11);
    until("election", || first.elected()).await;
    let second = Candidate::start(&url, SESSION, 12);
    until("a place in line", || second.stands_by().then_some(())).await;
    let began = Instant::now();
    first.kill();
    until("the other one's election", || second.elected()).await;
    println!(
        "from kill -9 to the next leader: {} ms of a session of {} ms",
        began.elapsed().as_millis(),
        SESSION.as_millis()
    );
    candidate::assert_no_overlap(&[&first, &second]);
}

async fn a_frozen_leader_leads_no_more(ensemble: &Ensemble) {
    let url = ensemble.url("/seven");
    let first = Candidate::start(&url, SESSION, 21);
    let old = until("election", || first.elected()).await;
    let second = Candidate::start(&url, SESSION, 22);
    until("a place in line", || second.stands_by().then_some(())).await;
    let mut detector = Detector::start(Place::ZooKeeper(url.parse().unwrap()), settings());
    assert_eq!(
        soon("detection", detector.changed()).await.map(|l| l.info.port),
        Some(21)
    );
    first.freeze();
    let new = until("the other one's election", || second.elected()).await;
    assert!(new > old);
    first.thaw();
    // It goes to the end of the line.
    until("a place in line", || first.stands_by().then_some(())).await;
    candidate::assert_no_overlap(&[&first, &second]);
    assert_eq!(
        until("detection", || detector.leader().filter(|l| l.info.port == 22))
            .await
            .term
            .map(|t| t.0),
        Some(new)
    );
}

async fn a_restart_of_the_server_is_survived(ensemble: &mut Ensemble) {
    let url = ensemble.url("/eight");
    let first = Candidate::start(&url, SESSION, 31);
    until("election", || first.elected()).await;
    let second = Candidate::start(&url, SESSION, 32);
    until("a place in line", || second.stands_by().then_some(())).await;
    let detector = Detector::start(Place::ZooKeeper(url.parse().unwrap()), settings());
    until("detection", || detector.leader()).await;
    ensemble.kill(0);
    until("the fence", || (!first.holds() && !second.holds()).then_some(())).await;
    until("no leader to be known", || {
        detector.leader().is_none().then_some(())
    })
    .await;
    ensemble.restart(0);
    until("a leader again", || {
        (first.holds() != second.holds()).then_some(())
    })
    .await;
    until("detection", || detector.leader()).await;
    candidate::assert_no_overlap(&[&first, &second]);
}

/// Three servers, of which one or two go.
#[test]
fn three_servers() {
    if skip_without_zookeeper() {
        return;
    }
    let mut ensemble = Ensemble::start(3);
    run(async {
        let url = ensemble.url("/mesos");
        let candidates: Vec<Candidate> = (41..44)
            .map(|port| Candidate::start(&url, SESSION, port))
            .collect();
        let leading = || {
            candidates
                .iter()
                .filter(|c| c.holds())
                .map(Candidate::last_term)
                .next()
        };
        let first = until("election", leading).await;
        one_server_dead(&mut ensemble, first, leading).await;
        one_server_frozen(&ensemble, leading).await;
        no_quorum(&mut ensemble, &candidates, leading).await;
        candidate::assert_no_overlap(&candidates.iter().collect::<Vec<_>>());
    });
}

async fn one_server_dead(ensemble: &mut Ensemble, first: u64, leading: impl Fn() -> Option<u64>) {
    let follower = (0..3).find(|n| ensemble.leader() != Some(*n)).unwrap();
    ensemble.kill(follower);
    net::sleep(2 * SESSION).await;
    assert_eq!(
        leading(),
        Some(first),
        "a leader fell with a server that is not needed"
    );
    ensemble.restart(follower);
    ensemble.wait_for(follower);
}

async fn one_server_frozen(ensemble: &Ensemble, leading: impl Fn() -> Option<u64>) {
    let before = until("a leader", &leading).await;
    // Each in turn, so that the one in use is among them. The ensemble's own leader too: then it elects another one.
    for number in 0..3 {
        ensemble.freeze(number);
        net::sleep(2 * SESSION).await;
        ensemble.thaw(number);
        ensemble.wait_for(number);
        let after = until("a leader", &leading).await;
        println!("server {number} frozen for two sessions: term {before} then, {after} now");
    }
}

async fn no_quorum(ensemble: &mut Ensemble, candidates: &[Candidate], leading: impl Fn() -> Option<u64>) {
    let before = until("a leader", &leading).await;
    ensemble.kill(0);
    ensemble.kill(1);
    until("the fence", || {
        candidates.iter().all(|c| !c.holds()).then_some(())
    })
    .await;
    ensemble.restart(0);
    let after = until("a leader again", leading).await;
    assert!(after > before);
}
