//! Open files of the agent.

use std::os::unix::net::UnixStream;

use support::{Agent, eventually, skip_unless_root};

use crate::pid_of;

fn open_files(agent: &Agent) -> usize {
    let path = format!("/proc/{}/fd", agent.pid());
    std::fs::read_dir(path).expect("the agent lives").count()
}

#[test]
fn an_agent_with_few_descriptors_serves_as_many_as_it_can_and_recovers() {
    if skip_unless_root() {
        return;
    }
    kernel::system::raise_descriptors().expect("descriptors for the test itself");
    let mut agent = Agent::start_after("ulimit -n 256", &[], &[]);
    agent
        .cli(&["run", "-d", "--name", "c", "--", "sleep", "1000"])
        .success();
    let pid = pid_of(&agent, "c");
    // Its statistics are opened at the first sample, which would else come in between.
    agent.cli(&["stats", "c"]).success();
    let before = open_files(&agent);
    let idle: Vec<UnixStream> = (0..600)
        .map_while(|_| UnixStream::connect(agent.socket()).ok())
        .collect();
    assert!(idle.len() > 300, "{}", idle.len());
    // Whatever the answer is, there is one, and soon.
    let answer = agent.cli(&["run", "--", "true"]);
    assert!(answer.status == 0 || answer.status == 125, "{answer:?}");
    assert!(answer.status == 0 || !answer.stderr.is_empty(), "{answer:?}");
    assert!(agent.is_alive());
    assert!(open_files(&agent) <= 256);
    drop(idle);
    eventually("the agent serves as before", || {
        (agent.cli(&["run", "--", "true"]).status == 0).then_some(())
    });
    assert_eq!(pid_of(&agent, "c"), pid);
    eventually("its descriptors are closed again", || {
        (open_files(&agent) <= before + 8).then_some(())
    });
}

#[test]
fn containers_beyond_the_descriptors_are_refused_before_anything_is_made() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_after("ulimit -n 200", &[], &[]);
    let (mut running, mut refused) = (0, 0);
    for _ in 0..14 {
        let answer = agent.cli(&["run", "-d", "--", "sleep", "1000"]);
        match answer.status {
            0 => running += 1,
            _ => {
                refused += 1;
                assert!(answer.stderr.contains("containers"), "{answer:?}");
            }
        }
    }
    assert!(
        running >= 4 && refused > 0,
        "{running} run, {refused} were refused"
    );
    // Each of those that run can be measured, read and talked to.
    let samples = agent.cli(&["stats", "-o", "json"]).json();
    assert_eq!(samples.as_array().map(Vec::len), Some(running), "{samples}");
    agent.cli(&["drain", "--grace", "0s"]).success();
}
