//! What masters and agents say comes back as it went, and bytes that are none of it are refused.

use std::sync::Arc;

use model::registry::{AgentId, AgentRecord};
use model::resources::Scalar;
use model::task::{
    AgentState, AgentView, Hello, LeaderView, Need, TaskRecord, TaskReport, TaskState, TaskStatus, TaskView,
    Welcome,
};
use wire::master;
use wire::master_capnp as schema;

fn status(state: TaskState) -> TaskStatus {
    TaskStatus {
        state,
        message: format!("is {}", state.as_str()),
        at_ms: 1_700_000_000_123,
        exit_status: state.is_terminal().then_some(-1),
    }
}

fn need() -> Need {
    Need {
        cpus: Scalar::from_milli(500),
        mem: Scalar::from_milli(64_000),
        disk: Scalar::from_milli(1),
        ports: 3,
    }
}

fn report(state: TaskState) -> TaskReport {
    TaskReport {
        id: "task-1".parse().unwrap(),
        name: Some("web".parse().unwrap()),
        need: need(),
        sequence: 7,
        status: status(state),
    }
}

fn record() -> AgentRecord {
    AgentRecord {
        hostname: "host".into(),
        address: "10.0.0.1:5051".into(),
        resources: "cpus:4;mem:1024;ports:[31000-32000]".parse().unwrap(),
        attributes: "rack:abc;level:10".parse().unwrap(),
        version: "1.2.3".into(),
        capabilities: ["A", "B"].map(str::to_owned).into(),
    }
}

macro_rules! there_and_back {
    ($value:expr, $root:ident, $encode:path, $decode:path) => {{
        let mut message = capnp::message::Builder::new_default();
        $encode(&$value, message.init_root::<schema::$root::Builder<'_>>());
        let bytes = capnp::serialize::write_message_to_words(&message);
        let read = capnp::serialize::read_message(&mut bytes.as_slice(), Default::default()).unwrap();
        assert_eq!(
            $decode(read.get_root::<schema::$root::Reader<'_>>().unwrap()).unwrap(),
            $value
        );
    }};
}

#[test]
fn everything_comes_back_as_it_went() {
    for state in TaskState::ALL {
        there_and_back!(
            report(state),
            task_report,
            master::encode_report,
            master::decode_report
        );
    }
    for id in [None, Some(AgentId("m-S1".into()))] {
        let hello = Hello {
            id,
            key: "f00d".into(),
            record: record(),
            boot_id: "boot".into(),
            term: u64::MAX,
            tasks: vec![report(TaskState::Running), report(TaskState::Lost)],
        };
        there_and_back!(hello, hello, master::encode_hello, master::decode_hello);
    }
    let welcome = Welcome {
        id: AgentId("m-S1".into()),
        term: 5,
        silence_max_ms: 75_000,
    };
    there_and_back!(welcome, welcome, master::encode_welcome, master::decode_welcome);
    let task = TaskView {
        id: "task-1".parse().unwrap(),
        name: None,
        agent: AgentId("m-S1".into()),
        hostname: "host".into(),
        need: need(),
        statuses: TaskState::ALL.map(status).into(),
    };
    there_and_back!(task, task_view, master::encode_task, master::decode_task);
    let leader = LeaderView {
        id: "m".into(),
        address: "10.0.0.1:5050".into(),
        hostname: "host".into(),
        version: "1".into(),
        term: 9,
        elected_at_ms: 3,
    };
    there_and_back!(leader, leader_view, master::encode_leader, master::decode_leader);
}

#[test]
fn pages_of_agents_come_back_as_they_went() {
    let views: Vec<AgentView> = AgentState::ALL
        .map(|state| AgentView {
            id: AgentId(format!("m-{}", state.as_str())),
            state,
            record: Arc::new(record()),
            deactivated: true,
            used: need(),
            tasks: 4,
            registered_at_ms: 1,
            reregistered_at_ms: 2,
            since_s: 3,
        })
        .into();
    let mut message = capnp::message::Builder::new_default();
    let results = message.init_root::<schema::operator::agents_results::Builder<'_>>();
    let mut list = results.init_agents(views.len() as u32);
    for (at, view) in (0..).zip(&views) {
        master::encode_agent(view, list.reborrow().get(at));
    }
    let read = message
        .get_root_as_reader::<schema::operator::agents_results::Reader<'_>>()
        .unwrap();
    assert_eq!(master::decode_agents(read.get_agents()).unwrap(), views);
}

#[test]
fn a_journals_file_comes_back_and_a_damaged_one_is_refused_without_a_panic() {
    let record = TaskRecord {
        id: "task-1".parse().unwrap(),
        name: None,
        need: need(),
        boot_id: "boot".into(),
        sequence: 2,
        last: status(TaskState::Failed),
        untold: vec![status(TaskState::Running), status(TaskState::Failed)],
    };
    let bytes = master::encode_record(&record);
    assert_eq!(master::decode_record(&bytes).unwrap(), record);
    for length in 0..bytes.len() {
        assert!(master::decode_record(&bytes[..length]).is_err(), "{length}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            // What it says then is another thing; that it says anything at all is the point.
            let _ = master::decode_record(&damaged);
        }
    }
}
