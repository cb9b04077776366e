//! Writes seeds into `fuzz/corpus`: true inputs of every kind, from which libFuzzer finds its way.
//!
//! ```sh
//! cargo run -p fuzz-targets --example seeds
//! ```

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use capnp::message::Builder;
use container::channel::{Report, encode_plan};
use container::status::WaitRecord;
use futures::io::{AsyncRead, AsyncWrite};
use model::registry::{AgentId, AgentRecord};
use model::resources::Scalar;
use model::task::{
    Hello, LeaderView, Need, TaskRecord, TaskReport, TaskState, TaskStatus, TaskView, Welcome,
};
use model::{
    Bytes, Capabilities, Cpus, DeviceLimit, DeviceRule, ExecSpec, IoLimits, LaunchSpec, Limit, Limits,
    Millis, Network, Rlimit, Seccomp, TerminalSize, Volume,
};
use wire::agent_capnp::gate;

fn put(target: &str, name: &str, bytes: &[u8]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join(format!("seed-{name}")), bytes).expect("a seed");
}

/// Each text with its choosing byte in front.
fn chosen(target: &str, texts: &[(u8, &str)]) {
    for (index, (kind, text)) in texts.iter().enumerate() {
        put(
            target,
            &format!("{kind}-{index}"),
            &[&[*kind], text.as_bytes()].concat(),
        );
    }
}

fn plain(target: &str, texts: &[&str]) {
    for (index, text) in texts.iter().enumerate() {
        put(target, &index.to_string(), text.as_bytes());
    }
}

fn limits() -> Limits {
    Limits {
        cpus: Some(Cpus::from_milli(1500)),
        cpu_limit: Some(Limit::Max),
        cpu_burst: Some(Millis(20)),
        mem: Some(Limit::Value(Bytes::mib(64))),
        mem_soft: Some(Bytes::mib(32)),
        swap: Some(Limit::Value(Bytes(0))),
        pids: Some(Limit::Value(9)),
        cpuset_cpus: Some("0-1".to_owned()),
        io: IoLimits {
            weight: Some(200),
            devices: vec![DeviceLimit {
                device: "8:0".to_owned(),
                read_bps: Some(1 << 20),
                write_iops: Some(100),
                ..DeviceLimit::default()
            }],
        },
        ..Limits::default()
    }
}

fn launch() -> LaunchSpec {
    LaunchSpec {
        name: Some("web".parse().expect("a name")),
        command: vec!["true".to_owned(), "--x".to_owned()],
        env: vec![("A".to_owned(), "1".to_owned())],
        user: Some("33:34".to_owned()),
        workdir: Some("/tmp".into()),
        hostname: Some("box".to_owned()),
        rootfs: Some("/srv/root".into()),
        volumes: vec![Volume {
            source: "/srv".into(),
            target: "/data".into(),
            read_only: true,
        }],
        limits: limits(),
        network: Network::None,
        capabilities: Capabilities {
            add: vec!["NET_RAW".to_owned()],
            drop: vec!["CHOWN".to_owned()],
        },
        rlimits: vec![Rlimit {
            name: "nofile".to_owned(),
            soft: Some(64),
            hard: None,
        }],
        seccomp: Seccomp::Unconfined,
        devices: vec![DeviceRule {
            path: "/dev/fuse".into(),
            read: true,
            write: false,
            mknod: false,
        }],
        terminal: Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
        stdin: true,
        timeout: Some(Millis(9)),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..LaunchSpec::default()
    }
}

fn exec() -> ExecSpec {
    ExecSpec {
        command: vec!["true".to_owned()],
        env: vec![("B".to_owned(), "2".to_owned())],
        stdin: true,
        ..ExecSpec::default()
    }
}

/// A message in stream framing.
fn words(write: impl FnOnce(&mut Builder<capnp::message::HeapAllocator>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    write(&mut message);
    capnp::serialize::write_message_to_words(&message)
}

fn wire_values() {
    let spec = words(|m| wire::launch::encode(&launch(), m.init_root()));
    put("plan", "launch", &spec);
    let small = LaunchSpec {
        command: vec!["true".to_owned()],
        ..LaunchSpec::default()
    };
    put(
        "plan",
        "small",
        &words(|m| wire::launch::encode(&small, m.init_root())),
    );
    let usage = model::Usage {
        timestamp: 1.5,
        processes: Some(3),
        mem_rss_bytes: Some(4096),
        ..model::Usage::default()
    };
    let sample = ("c1".parse().expect("an id"), "web".parse().expect("a name"));
    let fault = model::Fault::invalid("limits.mem", "is too small").remedy("give it more");
    let values: [(u8, Vec<u8>); 8] = [
        (0, spec),
        (1, words(|m| wire::launch::encode_exec(&exec(), m.init_root()))),
        (2, words(|m| wire::limits::encode(&limits(), m.init_root()))),
        (6, words(|m| wire::fault::encode(&fault, m.init_root()))),
        (7, words(|m| wire::usage::encode(&usage, m.init_root()))),
        (
            9,
            words(|m| wire::agent::encode_info(&model::AgentInfo::default(), m.init_root())),
        ),
        (
            12,
            words(|m| {
                let results = m.init_root::<wire::agent_capnp::agent::statistics_results::Builder<'_>>();
                wire::usage::encode_list([(&sample.0, Some(&sample.1), &usage)], results.init_samples(1));
            }),
        ),
        (
            13,
            words(|m| {
                let params = m.init_root::<wire::agent_capnp::agent::statistics_params::Builder<'_>>();
                params.init_ids(1).set(0, "c0ffee");
            }),
        ),
    ];
    for (kind, bytes) in values {
        put("wire_values", &kind.to_string(), &[&[kind], &bytes[..]].concat());
    }
}

fn task_report(state: TaskState) -> TaskReport {
    TaskReport {
        id: "task-1".parse().expect("an id"),
        name: Some("web".parse().expect("a name")),
        need: Need {
            cpus: Scalar::from_milli(500),
            mem: Scalar::from_milli(64_000),
            ..Need::default()
        },
        sequence: 7,
        status: TaskStatus {
            state,
            message: "said".to_owned(),
            at_ms: 1_700_000_000_000,
            exit_status: Some(3),
        },
    }
}

fn master_messages() {
    let report = task_report(TaskState::Running);
    let hello = Hello {
        id: Some(AgentId("m-S1".to_owned())),
        key: "c0ffee".to_owned(),
        record: AgentRecord {
            hostname: "host".to_owned(),
            address: "10.0.0.1:5051".to_owned(),
            resources: "cpus:4;mem:1024;ports:[31000-32000]".parse().expect("resources"),
            attributes: "rack:abc;level:10".parse().expect("attributes"),
            version: "1".to_owned(),
            capabilities: ["A".to_owned()].into(),
        },
        boot_id: "boot".to_owned(),
        term: 5,
        tasks: vec![report.clone(), task_report(TaskState::Failed)],
    };
    let welcome = Welcome {
        id: AgentId("m-S1".to_owned()),
        term: 5,
        silence_max_ms: 75_000,
    };
    let task = TaskView {
        id: report.id.clone(),
        name: None,
        agent: AgentId("m-S1".to_owned()),
        hostname: "host".to_owned(),
        need: report.need,
        statuses: vec![report.status.clone()],
    };
    let leader = LeaderView {
        id: "m".to_owned(),
        address: "10.0.0.1:5050".to_owned(),
        hostname: "host".to_owned(),
        version: "1".to_owned(),
        term: 9,
        elected_at_ms: 3,
    };
    let record = TaskRecord {
        id: report.id.clone(),
        name: report.name.clone(),
        need: report.need,
        boot_id: "boot".to_owned(),
        sequence: 7,
        last: report.status.clone(),
        untold: vec![report.status.clone()],
    };
    let values: [(u8, Vec<u8>); 6] = [
        (0, words(|m| wire::master::encode_hello(&hello, m.init_root()))),
        (1, words(|m| wire::master::encode_report(&report, m.init_root()))),
        (
            2,
            words(|m| wire::master::encode_welcome(&welcome, m.init_root())),
        ),
        (3, words(|m| wire::master::encode_task(&task, m.init_root()))),
        (4, words(|m| wire::master::encode_leader(&leader, m.init_root()))),
        (7, wire::master::encode_record(&record)),
    ];
    for (kind, bytes) in values {
        put(
            "master_messages",
            &kind.to_string(),
            &[&[kind], &bytes[..]].concat(),
        );
    }
}

fn of_the_container() {
    let plan = encode_plan(&fuzz_targets::plan::of(&launch()).expect("a plan"));
    put("channel", "plan", &[&[1], &plan[4..]].concat());
    for (index, report) in [vec![0], vec![1], vec![2, 14], vec![3]].iter().enumerate() {
        assert!(container::channel::decode_report(report).is_some());
        put(
            "channel",
            &format!("report-{index}"),
            &[&[0], &report[..]].concat(),
        );
    }
    let failed = [&[4, 5][..], b"mount", &[1, 2], b"/x", &[4, 2], b"no"].concat();
    assert!(matches!(
        container::channel::decode_report(&failed),
        Some(Report::Failed { .. })
    ));
    put("channel", "report-failed", &[&[0], &failed[..]].concat());
    put("clone_request", "init", &[4, 0xb7, 1, 1, 1, 1, 3, 4, 9]);
    put("clone_request", "exec", &[2, 0xb7, 1, 2, 0, 1, 11]);
    let record = WaitRecord {
        raw_status: 9,
        ended_at_ns: 5,
        used: Default::default(),
    };
    put("wait_status", "killed", &[&[0], &record.encode()[..]].concat());
    put("wait_status", "sealed", &[&[1], &record.encode()[..]].concat());
}

fn checkpoints() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/checkpoint-v1");
    for name in ["terminal", "rootfs", "full"] {
        let file = fs::read(fixtures.join(format!("{name}.checkpoint"))).expect("a fixture");
        put("checkpoint", &format!("{name}-file"), &[&[0], &file[..]].concat());
        put(
            "checkpoint",
            &format!("{name}-message"),
            &[&[1], &file[16..]].concat(),
        );
    }
}

fn texts() {
    plain(
        "accounts",
        &[
            "web\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:34:www:/srv:/bin/false\n",
            "web\nssl:x:90:web,root\nlog:x:80:web\n",
        ],
    );
    chosen(
        "arguments",
        &[
            (0, "/a/b:/c:ro"),
            (0, "./data:/data"),
            (1, "nofile=1024:4096"),
            (1, "as=1GB:unlimited"),
            (2, "/dev/vda:read_bps=10MB,write_iops=100"),
            (2, "8:16:rbps=1KB,wbps=2KB"),
            (3, "A=b=c"),
            (3, "# comment\n\nA=1\n  B=two words\nC\n"),
            (4, "a=b=c"),
            (5, "/dev/fuse:rm"),
            (6, "SIGTERM"),
            (6, "40"),
            (7, "80-90,443"),
            (7, "3"),
            (8, "500ms"),
            (
                9,
                "run\n--name\nweb\n--mem\n64MB\n--cpu_limit\n0.5\n-v\n/a:/b\n--\ntrue",
            ),
            (9, "ps\n-a\n-o\njson"),
            (9, "update\nweb\n--pids\nmax"),
        ],
    );
    plain(
        "configuration",
        &[
            "work_dir = '/from/file'\nsample_interval = '3s'\nworkers = 2\n",
            "http = \"none\"\nlisten = '127.0.0.1:5061'\ninstance = \"a\"\nmax_containers = 7\nnetwork_pool = 0\nlog = 'debug'\nsocket = '/a'\nruntime_dir = '/r'\n",
            "work_dri = 1",
            "work_dir = '/'",
            "http = '[::1]:5051'",
        ],
    );
    plain(
        "endpoints",
        &[
            "",
            "/",
            "//",
            "///////",
            "/slave(1)/monitor/statistics.json?jsonp=cb",
            "/metrics/snapshot?timeout=1secs&jsonp=a.b",
            "*",
            "/slave(1)",
            "/%00",
            "/..//../state",
            "?jsonp",
            "/health?&&=&jsonp==",
            "http://x//",
            "/monitor/statistics#x",
        ],
    );
    plain(
        "names",
        &[
            "c1",
            "A.b_c-9",
            "../x",
            ".",
            "web:www",
            "1000:1000",
            "0",
            "unix:/run/a.sock",
            "tcp:[::1]:5051",
            "host:1",
            "a\0b",
        ],
    );
    put("names", "long", &[b'a'; 300]);
    plain(
        "units",
        &[
            "64MB",
            "1.5GB",
            "4 KiB",
            "0",
            "15secs",
            "500ms",
            "2mins",
            "1.5h",
            "0.5",
            "max",
            "100Mbit",
            "99999999PB",
            "1e9",
            "NaN",
            "1023.99KB",
            "7w",
        ],
    );
    plain(
        "resources",
        &[
            "cpus:24;gpus:2;mem:24576;disk:409600;ports:[21000-24000,30000-34000];bugs(debug_role):{a,b,c}",
            "rack:abc;level:10;keys:[1000-1500]",
            "cpus(a/b):0.001; x:1",
            "1879048192:65536",
        ],
    );
    let entries = [
        replog::Entry::Meta(b"voting"),
        replog::Entry::Value {
            position: 4,
            flags: 1,
            bytes: b"value",
        },
        replog::Entry::Mark {
            from: 1,
            to: 3,
            flags: 2,
        },
        replog::Entry::Begin(3),
    ];
    put("log_batch", "all", &replog::batch::encode(&entries));
    plain(
        "output_index",
        &[
            "\u{0}next 40\n1 0\n2 20\n",
            "\u{9}next 18446744073709551615\n",
            "\u{1}next x\n5\n",
        ],
    );
    chosen(
        "kernel_files",
        &[
            (
                0,
                "anon 4096\nfile 0\nkernel_stack 16384\npgfault 18446744073709551616\n",
            ),
            (0, "populated 1\nfrozen 0\n"),
            (
                0,
                "usage_usec 1\nuser_usec 2\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            ),
            (1, "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=9 dios=9\n"),
            (1, "8:0 Read 10\n8:0 Write 5\nTotal 15\n"),
            (2, "67108864\n"),
            (2, "9223372036854771712\n"),
            (
                3,
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=7\n",
            ),
            (4, "0-3,8\n"),
            (4, "5,1-2,2-9"),
            (
                5,
                "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n35 30 0:26 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n",
            ),
            (
                6,
                "42 (a) R 1 (x) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 1 18 0",
            ),
            (6, "6.18.44-x"),
            (6, "CapBnd:\t000001ffffffffff\n"),
            (6, "253:0\n"),
            (7, "0-3\u{0}0,1,2,3"),
            (7, "4097\u{0}4096"),
        ],
    );
}

fn statistics() {
    for layout in 0..3u8 {
        let mut bytes = vec![layout];
        for file in fuzz_targets::statistics::files(usize::from(layout)) {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let text = match name.as_str() {
                "memory.stat" => {
                    "anon 1\nfile 2\ncache 3\nrss 4\nmapped_file 5\nswap 6\ntotal_rss 7\nhierarchical_memory_limit 9\n"
                }
                "cpu.stat" => {
                    "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_periods 2\nnr_throttled 1\nthrottled_usec 3\nthrottled_time 7\n"
                }
                "cpuacct.stat" => "user 4\nsystem 5\n",
                "memory.events" | "memory.events.local" => "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
                "memory.oom_control" => "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
                "cgroup.procs" | "tasks" | "cgroup.threads" => "1\n2\n3\n",
                "pids.events" => "max 4\n",
                "cgroup.events" => "populated 1\nfrozen 0\n",
                "io.stat" => "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n",
                _ => "67108864\n",
            };
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        put("statistics", &layout.to_string(), &bytes);
    }
}

fn http_requests() {
    for (index, (piece, text)) in [
        (0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            4,
            "GET /slave(1)/state.json?jsonp=f HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
        ),
        (0, "GET  HTTP/1.1\r\n\r\n"),
        (0, "GET // HTTP/1.0\r\n\r\n"),
        (0, "GET * HTTP/1.1\r\n\r\n"),
        (0, "OPTIONS * HTTP/1.1\r\n\r\n"),
        (0, "CONNECT a:1 HTTP/1.1\r\n\r\n"),
        (0, "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (0, "GET http:// HTTP/1.1\r\n\r\n"),
        (0, "GET ?jsonp=x HTTP/1.1\r\n\r\n"),
        (
            9,
            "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            0,
            "POST /x HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        ),
        (
            0,
            "POST /x HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ),
        (
            0,
            "HEAD /metrics HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ),
        (0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        put(
            "http_server",
            &index.to_string(),
            &[&[piece], text.as_bytes()].concat(),
        );
    }
}

/// A stream that notes what is written to it.
struct Noted<S> {
    stream: S,
    written: Rc<RefCell<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        if let Poll::Ready(Ok(count)) = polled {
            self.written.borrow_mut().extend_from_slice(&data[..count]);
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// What a client says in one conversation.
async fn conversation(pipelined: bool) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let path = directory.path().join("s");
    let listener = net::UnixListener::bind(&path, 0o600).expect("a socket");
    let stream = net::UnixStream::connect(&path).await.expect("connect");
    let accepted = futures::future::poll_fn(|cx| net::Listener::poll_accept(&listener, cx))
        .await
        .expect("accept");
    let limits = net::rpc::RpcLimits::default();
    let serving = net::rpc::serve_connection(accepted, fuzz_targets::rpc_server::bootstrap(), &limits);
    net::spawn(async move { drop(serving.await) }).detach();
    let written = Rc::new(RefCell::new(Vec::new()));
    let noted = Noted {
        stream,
        written: Rc::clone(&written),
    };
    let (driving, gate) = net::rpc::connect::<_, gate::Client>(noted, &limits);
    net::spawn(async move { drop(driving.await) }).detach();
    talk(gate, pipelined).await.expect("answers");
    written.take()
}

async fn talk(gate: gate::Client, pipelined: bool) -> Result<(), capnp::Error> {
    let mut authenticate = gate.authenticate_request();
    authenticate.get().set_client("seeds");
    authenticate.get().set_version("1");
    let promise = authenticate.send();
    let agent = match pipelined {
        true => promise.pipeline.get_agent(),
        false => promise.promise.await?.get()?.get_agent()?,
    };
    let mut ping = agent.ping_request();
    ping.get().set_payload(b"hello");
    ping.send().promise.await?;
    let mut ask = agent.launch_request();
    wire::launch::encode(&launch(), ask.get().init_spec());
    let promise = ask.send();
    let container = match pipelined {
        true => promise.pipeline.get_container(),
        false => promise.promise.await?.get()?.get_container()?,
    };
    let mut update = container.update_request();
    wire::limits::encode(&limits(), update.get().init_limits());
    update.send().promise.await?;
    let mut run = container.exec_request();
    wire::launch::encode_exec(&exec(), run.get().init_spec());
    let answer = run.send().promise.await?;
    let mut input = answer.get()?.get_input()?.write_request();
    input.get().set_data(b"input");
    input.send().await?;
    answer.get()?.get_process()?.wait_request().send().promise.await?;
    let mut statistics = agent.statistics_request();
    statistics.get().init_ids(1).set(0, "c0ffee");
    statistics.send().promise.await?;
    container.wait_request().send().promise.await?;
    Ok(())
}

fn conversations() {
    for (name, pipelined) in [("waits", false), ("pipelined", true)] {
        let bytes = net::run(net::Config::default(), conversation(pipelined)).expect("a loop");
        put("rpc_server", name, &[&[0], &bytes[..]].concat());
        put(
            "rpc_server",
            &format!("{name}-cut"),
            &[&[60], &bytes[..bytes.len() / 2]].concat(),
        );
        put("rpc_frames", name, &[&[7], &bytes[..]].concat());
    }
}

fn main() {
    texts();
    wire_values();
    master_messages();
    of_the_container();
    checkpoints();
    statistics();
    http_requests();
    conversations();
}
