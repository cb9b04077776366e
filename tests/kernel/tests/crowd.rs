//! A thousand containers, and what is left of them.

use support::{Agent, eventually, skip_unless_root};

#[test]
fn a_thousand_containers_come_and_go_without_a_trace() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let endpoint: client::Endpoint = agent.endpoint().parse().expect("an endpoint");
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
            .expect("the agent lives")
            .count()
    };
    agent.cli(&["run", "--rm", "--", "true"]).success();
    let before = descriptors();
    net::run(net::Config::default(), async {
        let connection = client::Agent::connect(&endpoint).await.expect("connect");
        for _ in 0..100 {
            let batch = (0..10).map(|_| async {
                let spec = model::LaunchSpec {
                    command: vec!["sleep".into(), "1000".into()],
                    limits: model::Limits {
                        mem: Some(model::Limit::Value(model::Bytes::mib(16))),
                        pids: Some(model::Limit::Value(4)),
                        ..model::Limits::default()
                    },
                    remove: true,
                    ..model::LaunchSpec::default()
                };
                connection.launch(&spec, None, false).await.expect("launch")
            });
            futures::future::join_all(batch).await;
        }
        assert_eq!(connection.list(false).await.expect("list").len(), 1000);
        let samples = connection.statistics(&[]).await.expect("statistics");
        assert_eq!(samples.len(), 1000);
        assert!(
            samples
                .iter()
                .all(|s| s.usage.mem_total_bytes.is_some() && s.usage.processes.is_some())
        );
        assert_eq!(connection.drain(model::Millis(0)).await.expect("drain"), 1000);
    })
    .expect("the loop");
    eventually("the agent's descriptors are closed", || {
        (descriptors() <= before + 2).then_some(())
    });
    for directory in [
        agent.work_dir().join("sandboxes"),
        agent.work_dir().join("output"),
        agent.runtime_dir().join("containers"),
    ] {
        eventually(&format!("{} is empty", directory.display()), || {
            (std::fs::read_dir(&directory).expect("directory").count() == 0).then_some(())
        });
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("the agent lives");
    eprintln!(
        "agent after 1,000 containers: {}",
        status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or("")
    );
}
