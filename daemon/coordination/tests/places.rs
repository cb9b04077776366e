//! Leaders that nobody elects: a known address, and what a file says.

use std::path::Path;
use std::time::Duration;

use coordination::{Detector, Place, Settings};
use support::patience;

fn run(test: impl Future<Output = ()>) {
    net::run(net::Config::default(), test).unwrap();
}

async fn next(detector: &mut Detector) -> Option<u16> {
    let leader = net::timeout(patience(30), detector.changed())
        .await
        .expect("another leader");
    leader.map(|leader| leader.info.port)
}

/// At once, as a careful writer does.
fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn an_address_is_a_leader_without_a_term() {
    run(async {
        let mut detector = Detector::start("localhost:5050".parse::<Place>().unwrap(), Settings::default());
        let leader = net::timeout(patience(30), detector.changed())
            .await
            .unwrap()
            .unwrap();
        assert!(leader.info.ip.is_loopback());
        assert_eq!(
            (leader.info.port, leader.info.hostname.as_str(), leader.term),
            (5050, "localhost", None)
        );
    });
}

#[test]
fn a_file_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("master");
    let place: Place = format!("file://{}", file.display()).parse().unwrap();
    run(async {
        let mut detector = Detector::start(place, Settings::default());
        assert_eq!(detector.leader(), None);
        put(&file, "127.0.0.1:5051\n");
        assert_eq!(next(&mut detector).await, Some(5051));
        put(&file, r#"{"pid":"master@127.0.0.1:5052"}"#);
        while next(&mut detector).await != Some(5052) {}
        put(&file, "file:///elsewhere");
        assert_eq!(next(&mut detector).await, None);
        put(&file, "127.0.0.1:5053");
        assert_eq!(next(&mut detector).await, Some(5053));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(next(&mut detector).await, None);
        // Nothing there to be asked: it goes on trying, and knows nobody.
        put(&file, "zk://127.0.0.1:1/mesos");
        let change = net::timeout(Duration::from_secs(3), detector.changed()).await;
        assert!(change.is_err(), "{:?}", change.ok());
    });
}
