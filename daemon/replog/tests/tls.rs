//! Links behind certificates: who has one of the log's authority takes part, and nobody else; and nobody as another one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use net::{ConnectionLimit, TcpListener, TcpStream, Tls, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use replog::frames::{PREFACE, frame};
use replog::{Client, Config, Replica};
use replog_core::{Ballot, Envelope, Message, Prepare, ReplicaId, Settings, Status};

/// An authority in a directory of its own, with certificates by name.
struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for these names, signed by this authority; `trusts` is whom its holder lets in.
    fn files(&self, name: &str, names: &[&str], trusts: &Self) -> TlsFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = TlsFiles {
            authority: trusts.directory.join("ca.pem"),
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn tls(&self, name: &str, names: &[&str]) -> Tls {
        Tls::load(&self.files(name, names, self)).unwrap()
    }
}

type Running = Vec<(Replica, net::Task<()>)>;

fn start(directory: &Path, tls: &[Option<Tls>]) -> (BTreeMap<ReplicaId, String>, Running) {
    let addresses: BTreeMap<_, _> = (1..=tls.len() as u64)
        .map(|id| {
            // Taken and given back: the port is ours again in a moment.
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            (ReplicaId(id), taken.local_addr().unwrap().to_string())
        })
        .collect();
    let ids: BTreeSet<_> = addresses.keys().copied().collect();
    let running = addresses
        .iter()
        .zip(tls)
        .map(|((id, address), tls)| {
            let mut settings = Settings::new(*id);
            settings.initial = Some(ids.clone());
            settings.contacts = ids.clone();
            let config = Config {
                settings,
                peers: addresses.clone(),
                directory: directory.join(id.to_string()),
                segment_bytes: 16 << 20,
            };
            let replica = Replica::open_secured(config, tls.clone()).unwrap();
            let listener = TcpListener::bind(address.parse().unwrap()).unwrap();
            let server = replog::serve(replica.clone(), listener, ConnectionLimit::new(64));
            (replica, net::spawn(async move { drop(server.await) }))
        })
        .collect();
    (addresses, running)
}

fn run(test: impl Future<Output = ()>) {
    net::run(net::Config::default(), test).unwrap();
}

async fn vote(running: &Running, which: &[usize]) {
    for _ in 0..1500 {
        let votes = |at: &usize| running[*at].0.status().status == Status::Voting;
        if which.iter().all(votes) {
            return;
        }
        net::sleep(Duration::from_millis(10)).await;
    }
    panic!("no votes within 15 s");
}

async fn elected(replica: &Replica) {
    for _ in 0..200 {
        if replica.elect(0).await.is_ok() {
            return;
        }
        net::sleep(Duration::from_millis(50)).await;
    }
    panic!("not elected within 10 s");
}

#[test]
fn replicas_with_certificates_agree_and_tools_with_one_are_served() {
    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "authority");
    let other = Authority::new(place.path(), "other");
    run(async {
        let tls = ["one", "two", "three"].map(|name| Some(authority.tls(name, &["127.0.0.1"])));
        let (addresses, running) = start(place.path(), &tls);
        vote(&running, &[0, 1, 2]).await;
        elected(&running[0].0).await;
        // Large ones too: what does not fit into the socket's buffer at once.
        for _ in 0..8 {
            let asked = (0..8).map(|part| running[0].0.append(vec![part; 900 << 10]));
            futures::future::try_join_all(asked).await.unwrap();
        }
        let address = &addresses[&ReplicaId(1)];
        let tool = authority.tls("tool", &["some-tool"]);
        let client = Client::connect(address, Some(&tool)).await.unwrap();
        assert_eq!(client.status().await.unwrap().id, ReplicaId(1));
        client
            .append(&[b"entry".to_vec(), vec![1; 900 << 10]])
            .await
            .unwrap();
        let last = client.status().await.unwrap().learned;
        assert_eq!(client.read(last, last).await.unwrap().len(), 1);

        // In plain text, with a certificate of somebody else, with none that its authority knows.
        let plain = Client::connect(address, None).await.unwrap();
        assert!(plain.status().await.is_err());
        let strangers = [
            other.files("stranger", &["127.0.0.1"], &other),
            other.files("half", &["127.0.0.1"], &authority),
            authority.files("trusts-others", &["127.0.0.1"], &other),
        ];
        for files in strangers {
            let tls = Tls::load(&files).unwrap();
            assert!(Client::connect(address, Some(&tls)).await.is_err(), "{files:?}");
        }
    });
}

fn named(replica: u64) -> String {
    format!("replica-{replica}.log.bulkhead.internal")
}

/// A demand that everybody obeys replica 3 from now on, as replica 3 would say it.
fn usurp(replica: &Replica) -> Envelope {
    let membership = replica.status().membership.expect("it votes");
    let third = *membership
        .members
        .iter()
        .find(|member| member.replica == ReplicaId(3))
        .unwrap();
    Envelope {
        from: third,
        to: ReplicaId(1),
        incarnation: None,
        message: Message::Prepare(Prepare {
            ballot: Ballot {
                term: 1000,
                replica: ReplicaId(3),
            },
            membership,
            caretaker: false,
        }),
    }
}

/// Whether replica 1 does what somebody with this certificate says as replica 3; otherwise it has closed the link.
async fn obeys(replica: &Replica, address: &str, tls: &Tls) -> bool {
    let stream = TcpStream::connect(address.parse().unwrap()).await.unwrap();
    let mut link = tls.connect(stream, "127.0.0.1").await.unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(&[usurp(replica)]));
    link.write_all(&bytes).await.unwrap();
    let obeyed = async {
        while replica.status().promised.term < 1000 {
            net::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut nothing = [0; 1];
    futures::pin_mut!(obeyed);
    match futures::future::select(obeyed, link.read(&mut nothing)).await {
        futures::future::Either::Left(_) => true,
        futures::future::Either::Right((read, _)) => {
            assert!(
                !matches!(read, Ok(1)),
                "a replica says nothing on another one's link"
            );
            false
        }
    }
}

#[test]
fn a_peer_speaks_only_as_the_replica_that_its_certificate_is_of() {
    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "authority");
    run(async {
        let own = |id: u64| authority.tls(&id.to_string(), &["127.0.0.1", &named(id)]);
        let tls = [1, 2, 3].map(|id| Some(own(id)));
        let (addresses, running) = start(place.path(), &tls);
        vote(&running, &[0, 1, 2]).await;
        let (replica, address) = (&running[0].0, &addresses[&ReplicaId(1)]);
        for impostor in [
            own(2),
            authority.tls("tool", &["some-tool"]),
            authority.tls("elsewhere", &["10.9.8.7"]),
        ] {
            assert!(!obeys(replica, address, &impostor).await);
            assert!(replica.status().promised.term < 1000);
        }
        assert!(
            obeys(replica, address, &own(3)).await,
            "what was refused is obeyed from the right one"
        );
    });
}

#[test]
fn certificates_that_were_replaced_are_used_for_the_links_that_follow() {
    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "authority");
    let other = Authority::new(place.path(), "other");
    run(async {
        let files = authority.files("one", &["127.0.0.1"], &authority);
        let (addresses, running) = start(place.path(), &[Some(Tls::load(&files).unwrap())]);
        vote(&running, &[0]).await;
        let (replica, address) = (&running[0].0, &addresses[&ReplicaId(1)]);
        let (old, new) = (authority.tls("tool", &["tool"]), other.tls("tool", &["tool"]));
        let before = Client::connect(address, Some(&old)).await.unwrap();
        assert!(Client::connect(address, Some(&new)).await.is_err());

        // Half of what belongs together: refused, and what was there stays in use.
        let next = other.files("one", &["127.0.0.1"], &other);
        std::fs::copy(&next.certificate, &files.certificate).unwrap();
        let told = replica.reload_certificates().unwrap_err().to_string();
        assert!(told.contains("belong together"), "{told}");
        assert!(Client::connect(address, Some(&old)).await.is_ok());

        std::fs::copy(&next.key, &files.key).unwrap();
        std::fs::copy(&next.authority, &files.authority).unwrap();
        replica.reload_certificates().unwrap();
        assert!(Client::connect(address, Some(&new)).await.is_ok());
        assert!(Client::connect(address, Some(&old)).await.is_err());
        before
            .status()
            .await
            .expect("a connection that stands is left alone");
    });
}

#[test]
fn a_replica_without_the_right_certificate_does_not_take_part() {
    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "authority");
    let other = Authority::new(place.path(), "other");
    let wrong: [(&str, Option<Tls>); 4] = [
        ("plain", None),
        ("other", Some(other.tls("three", &["127.0.0.1"]))),
        // Signed well, and it trusts the right ones, but it is the certificate of another host.
        ("misnamed", Some(authority.tls("misnamed", &["10.9.8.7"]))),
        // Of the right host, and of another replica on it.
        ("second", Some(authority.tls("second", &["127.0.0.1", &named(2)]))),
    ];
    for (name, third) in wrong {
        let place = place.path().join(format!("log-{name}"));
        std::fs::create_dir(&place).unwrap();
        run(async {
            let good = |name: &str| Some(authority.tls(name, &["127.0.0.1"]));
            let (_, running) = start(&place, &[good("one"), good("two"), third.clone()]);
            net::sleep(Duration::from_millis(1500)).await;
            // All three would have to begin the log.
            for (replica, _) in &running {
                assert_ne!(replica.status().status, Status::Voting, "{name}");
            }
        });
    }
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "authority");
    let good = authority.files("good", &["localhost"], &authority);
    let other = authority.files("other", &["localhost"], &authority);
    let empty = place.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let missing = place.path().join("missing.pem");
    for (files, named) in [
        (
            TlsFiles {
                authority: empty.clone(),
                ..good.clone()
            },
            "empty.pem",
        ),
        (
            TlsFiles {
                certificate: missing.clone(),
                ..good.clone()
            },
            "missing.pem",
        ),
        (
            TlsFiles {
                key: empty.clone(),
                ..good.clone()
            },
            "empty.pem",
        ),
        (
            TlsFiles {
                key: other.key.clone(),
                ..good.clone()
            },
            "belong together",
        ),
    ] {
        let told = Tls::load(&files).unwrap_err().to_string();
        assert!(told.contains(named), "{told}");
    }
}
