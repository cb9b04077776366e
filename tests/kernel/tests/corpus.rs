//! The bytes that fuzzing kept, against a real agent: it answers or hangs up, and goes on serving others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use support::{Agent, patience, skip_unless_root};

/// Inputs of a target without their first byte, which only says how they are cut.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    entries
        .flatten()
        .map(|entry| std::fs::read(entry.path()).expect("a corpus file"))
        .map(|bytes| bytes.get(1..).unwrap_or_default().to_vec())
        .collect()
}

/// Says it, then goes; what comes back does not matter, but that the connection ends does.
fn say(mut stream: impl Read + Write, close: impl FnOnce(), bytes: &[u8]) {
    // The agent may have hung up in the middle.
    let _ = stream.write_all(bytes);
    close();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:02x?}");
    }
}

#[test]
fn a_real_agent_survives_the_corpus() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start_with(&["--http=127.0.0.1:0"], &[]);
    let version = agent.cli(&["version", "-o", "json"]).json();
    let http = version["agent"]["http_address"]
        .as_str()
        .expect("an address")
        .to_owned();
    let limit: Option<Duration> = Some(patience(20));
    for bytes in corpus("rpc_server").iter().chain(&corpus("rpc_frames")) {
        let stream = UnixStream::connect(agent.socket()).expect("the agent listens");
        stream.set_read_timeout(limit).expect("a timeout");
        let other = stream.try_clone().expect("a second handle");
        let close = || drop(other.shutdown(std::net::Shutdown::Write));
        say(stream, close, bytes);
    }
    for bytes in corpus("http_server") {
        let stream = TcpStream::connect(&http).expect("the HTTP server listens");
        stream.set_read_timeout(limit).expect("a timeout");
        let other = stream.try_clone().expect("a second handle");
        let close = || drop(other.shutdown(std::net::Shutdown::Write));
        say(stream, close, &bytes);
    }
    assert!(agent.is_alive());
    assert_eq!(agent.cli(&["run", "--rm", "--", "true"]).status, 0);
    assert!(!agent.log().contains("panic"), "{}", agent.log());
}
