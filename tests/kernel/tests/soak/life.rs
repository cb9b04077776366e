//! One container's clients, from the request to launch it to the answer how it ended, over any number of agents.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Agent, Endpoint, LogOptions, Output, OutputEnded, Reconnect, Resumable};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use model::{ContainerId, EventKind, ExecSpec, Fault, FaultKind, LaunchSpec, Limit, Limits, Millis, Network};

use support::patience;

use crate::Plan;
use crate::book::{Book, End, Entry};

/// Where a container sees the books.
pub const INSIDE: &str = "/srv";
/// For an agent that serves: no client gives up as long as one comes back.
fn for_an_agent() -> Duration {
    patience(60)
}

/// After the end of the soak, for whoever has begun a moment before it.
fn for_an_answer() -> Duration {
    patience(40)
}

/// For the output of a container that is over.
fn for_the_output() -> Duration {
    patience(10)
}

/// SplitMix64 (Steele 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

pub struct Context {
    plan: Plan,
    endpoint: Endpoint,
    shared: PathBuf,
    stop: Arc<AtomicBool>,
    living: Cell<u64>,
    book: RefCell<Book>,
}

impl Context {
    pub fn new(plan: Plan, endpoint: Endpoint, shared: PathBuf, stop: Arc<AtomicBool>) -> Self {
        Self {
            plan,
            endpoint,
            shared,
            stop,
            living: Cell::new(0),
            book: RefCell::default(),
        }
    }

    /// Of all that has happened.
    pub fn book(&self) -> Book {
        self.book.take()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Starts lives until told to stop, then waits for the last one.
    pub async fn live(self: Rc<Self>) {
        let listener = net::spawn(listen(self.clone()));
        let mut random = Random::new(self.plan.seed);
        let mut number = 0;
        while !self.stopping() {
            if self.living.get() < self.plan.containers {
                number += 1;
                self.living.set(self.living.get() + 1);
                let (this, chance) = (self.clone(), Random::new(self.plan.seed ^ number << 20));
                net::spawn(async move {
                    life(&this, number, chance).await;
                    this.living.set(this.living.get() - 1);
                })
                .detach();
            }
            net::sleep(Duration::from_millis(1 + random.below(60))).await;
        }
        while self.living.get() > 0 {
            net::sleep(Duration::from_millis(10)).await;
        }
        drop(listener);
        if let Err(fault) = self.read_again().await {
            self.book.borrow_mut().read_in_vain(fault);
        }
    }

    /// Follows the output of every container that the last agent knows, whichever agent has seen it end.
    async fn read_again(&self) -> Result<(), Fault> {
        let agent = Agent::connect_retry(&self.endpoint, for_an_agent()).await?;
        for status in agent.list(true).await? {
            let text = net::timeout(for_the_output(), read_to_the_end(&agent, &status.id)).await;
            let Ok(text) = text else {
                // The others would take as long.
                let message = format!("following that of {} comes to no end", status.id);
                return Err(Fault::failed(message));
            };
            self.book.borrow_mut().read(&status.id, text);
        }
        Ok(())
    }
}

/// What is to happen to one container.
struct Fate {
    id: ContainerId,
    code: u64,
    /// Of the command, by itself.
    lasts: Duration,
    /// It is killed after so long.
    killed: Option<(Duration, Millis)>,
    updates: u64,
    execs: u64,
    /// Its output is followed to the end, instead of only waiting.
    followed: bool,
    remove: bool,
    isolated: bool,
}

impl Fate {
    fn draw(number: u64, random: &mut Random) -> Self {
        let lasts = match random.below(10) {
            0..5 => random.below(400),
            5..8 => random.below(6000),
            _ => 3_600_000,
        };
        let killed = (lasts > 100_000 || random.below(5) == 0).then(|| {
            let grace = [0, 0, 50, 2000][random.below(4) as usize];
            (Duration::from_millis(random.below(8000)), Millis(grace))
        });
        Self {
            id: format!("soak-{number}").parse().expect("an id"),
            code: random.below(100),
            lasts: Duration::from_millis(lasts),
            killed,
            updates: random.below(3),
            execs: u64::from(random.below(4) == 0),
            followed: random.below(6) == 0,
            remove: random.below(2) == 0,
            isolated: random.below(8) == 0,
        }
    }

    fn spec(&self, context: &Context) -> LaunchSpec {
        let (id, code, seconds) = (&self.id, self.code, self.lasts.as_secs_f64());
        let truth = format!("{INSIDE}/truth");
        // The sleep is another process, so that TERM ends the shell's wait for it at once.
        let script = format!(
            "echo start {id} >> {truth}; echo out {id}; sleep {seconds} & wait $!; echo end {id} >> {truth}; exit {code}"
        );
        LaunchSpec {
            id: Some(id.clone()),
            command: vec!["sh".into(), "-c".into(), script],
            volumes: vec![model::Volume {
                source: context.shared.clone(),
                target: INSIDE.into(),
                read_only: false,
            }],
            limits: Limits {
                mem: Some(Limit::Value(model::Bytes::mib(32))),
                pids: Some(Limit::Value(16)),
                ..Limits::default()
            },
            network: if self.isolated {
                Network::None
            } else {
                Network::Host
            },
            remove: self.remove,
            ..LaunchSpec::default()
        }
    }
}

async fn life(context: &Rc<Context>, number: u64, mut random: Random) {
    let fate = Rc::new(Fate::draw(number, &mut random));
    let mut entry = Entry::new(fate.code as i32, fate.remove, fate.killed.is_some());
    match launch(context, &fate).await {
        Ok(acknowledged) => entry.acknowledged = acknowledged,
        Err(fault) => {
            entry.refused = Some(fault.to_string());
            context.book.borrow_mut().enter(&fate.id, entry);
            return;
        }
    }
    let killed = Rc::new(Cell::new(false));
    let hand = net::spawn(meddle(context.clone(), fate.clone(), random, killed.clone()));
    let asked = follow_to_the_end(context, &fate);
    // What nobody kills in time is killed at the end of the soak: then no answer is long in coming.
    let hangs = End::Lost(format!(
        "no answer, followed {}, removed {}",
        fate.followed, fate.remove
    ));
    entry.end = Some(
        net::timeout(context.plan.time + for_an_answer(), asked)
            .await
            .unwrap_or(hangs),
    );
    drop(hand);
    entry.killed = killed.get();
    context.book.borrow_mut().enter(&fate.id, entry);
}

/// Asks until somebody answers, always with the same id. True: acknowledged. False: an agent had it started, died before
/// it could say so, and it was over when the next one was asked.
async fn launch(context: &Context, fate: &Fate) -> Result<bool, Fault> {
    let spec = fate.spec(context);
    let mut again = false;
    loop {
        let agent = Agent::connect_retry(&context.endpoint, for_an_agent()).await?;
        match agent.launch(&spec, None, false).await {
            Ok(_) => return Ok(true),
            Err(fault) if fault.kind == FaultKind::Unavailable => again = true,
            Err(fault) if fault.kind == FaultKind::Conflict && again => return Ok(false),
            Err(fault) => return Err(fault),
        }
    }
}

async fn follow_to_the_end(context: &Context, fate: &Fate) -> End {
    let reconnect = Reconnect {
        patience: for_an_agent(),
    };
    if !fate.followed {
        return match reconnect.wait(&context.endpoint, &fate.id).await {
            Ok(termination) => End::Reported(termination),
            Err(fault) => End::Lost(fault.to_string()),
        };
    }
    let kept = Kept::default();
    let output = Resumable::new(Box::new(kept.clone()));
    match reconnect
        .follow(&context.endpoint, &fate.id, &output, |_| {})
        .await
    {
        Ok((termination, _)) => {
            let wanted = format!("out {}\n", fate.id);
            let text = kept.0.borrow().clone();
            if text.is_empty() || text == wanted {
                End::Reported(termination)
            } else {
                End::Lost(format!("its output is {text:?}"))
            }
        }
        Err(fault) => End::Lost(fault.to_string()),
    }
}

async fn read_to_the_end(agent: &Agent, id: &ContainerId) -> Result<String, Fault> {
    let kept = Kept::default();
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let container = agent.container(id.as_str()).await?;
    match container.logs(Box::new(kept.clone()), options).await?.await? {
        OutputEnded::Complete => Ok(kept.0.take()),
        OutputEnded::Cut => Err(Fault::failed("it was cut")),
    }
}

/// Updates, runs further processes, kills. Every call may meet an agent that dies; only the kill is asked for again.
async fn meddle(context: Rc<Context>, fate: Rc<Fate>, mut random: Random, killed: Rc<Cell<bool>>) {
    for n in 0..fate.updates + fate.execs {
        net::sleep(Duration::from_millis(random.below(500))).await;
        let Ok(agent) = Agent::connect_retry(&context.endpoint, for_an_agent()).await else {
            return;
        };
        let Ok(container) = agent.container(fate.id.as_str()).await else {
            continue;
        };
        if n < fate.updates {
            let change = Limits {
                pids: Some(Limit::Value(16 + n as u32)),
                ..Limits::default()
            };
            let _ = container.update(&change).await;
        } else {
            let script = format!("echo exec {} >> {INSIDE}/truth", fate.id);
            let spec = ExecSpec {
                command: vec!["sh".into(), "-c".into(), script],
                ..ExecSpec::default()
            };
            if let Ok(execution) = container.exec(&spec, None).await {
                let _ = execution.process.wait().await;
            }
        }
    }
    let due = fate.killed.map(|(after, _)| net::now() + after);
    loop {
        let over = due.is_some_and(|due| net::now() >= due);
        if over || context.stopping() {
            break;
        }
        net::sleep(Duration::from_millis(20)).await;
    }
    let grace = fate.killed.map_or(Millis(0), |(_, grace)| grace);
    // Counted before it is asked for: an agent may do it and die before it says so.
    killed.set(true);
    loop {
        let Ok(agent) = Agent::connect_retry(&context.endpoint, for_an_agent()).await else {
            return;
        };
        let asked = async {
            agent
                .container(fate.id.as_str())
                .await?
                .kill(0, Some(grace))
                .await
        };
        match asked.await {
            Err(fault) if fault.kind == FaultKind::Unavailable => {}
            _ => return,
        }
    }
}

/// Counts how often the end of a container is told to whoever listens, over all agents.
async fn listen(context: Rc<Context>) {
    let mut after = 0;
    loop {
        let Ok(agent) = Agent::connect_retry(&context.endpoint, for_an_agent()).await else {
            return;
        };
        let Ok(mut events) = agent.watch_events(after).await else {
            continue;
        };
        while let Some(Ok(event)) = events.next().await {
            after = event.sequence;
            if let EventKind::Ended { .. } = event.kind {
                context.book.borrow_mut().hear(&event.container);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Kept(Rc<RefCell<String>>);

impl Output for Kept {
    fn write<'a>(&'a mut self, _stream: u8, data: &'a [u8]) -> LocalBoxFuture<'a, Result<(), Fault>> {
        self.0.borrow_mut().push_str(&String::from_utf8_lossy(data));
        futures::future::ready(Ok(())).boxed_local()
    }

    fn gap(&mut self, _stream: u8, bytes: u64) -> LocalBoxFuture<'_, Result<(), Fault>> {
        self.0.borrow_mut().push_str(&format!("<{bytes} lost>"));
        futures::future::ready(Ok(())).boxed_local()
    }

    fn done(&mut self) -> LocalBoxFuture<'_, Result<(), Fault>> {
        futures::future::ready(Ok(())).boxed_local()
    }
}
