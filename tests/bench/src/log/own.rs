//! The product's writer as the master uses it: a replica in the writer's own process.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::BufRead as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use replog::{Config, Replica};
use replog_core::{ReplicaId, Settings};

use super::driver;

/// Replica 1 of the log whose replicas listen at `addresses`, in this order.
pub fn drive(directory: &Path, addresses: &[String]) -> Result<(), Box<dyn Error>> {
    net::run(net::Config::default(), serve(directory, addresses))?
}

async fn serve(directory: &Path, addresses: &[String]) -> Result<(), Box<dyn Error>> {
    let peers: BTreeMap<_, _> = (1..).map(ReplicaId).zip(addresses.iter().cloned()).collect();
    let ids: BTreeSet<_> = peers.keys().copied().collect();
    let mut settings = Settings::new(ReplicaId(1));
    settings.initial = Some(ids.clone());
    settings.contacts = ids;
    let config = Config {
        settings,
        peers,
        directory: directory.to_owned(),
        segment_bytes: 64 << 20,
    };
    let replica = Replica::open(config)?;
    let listener = net::TcpListener::bind(addresses[0].parse()?)?;
    let server = replog::serve(replica.clone(), listener, net::ConnectionLimit::new(64));
    let _server = net::spawn(async move { drop(server.await) });
    while replica.elect(0).await.is_err() {
        net::sleep(Duration::from_millis(50)).await;
    }
    // The loop has to go on between two rounds: a writer that is silent is not heard.
    let (lines, mut asked) = net::queue::bounded(4);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = lines.try_push(line);
        }
    });
    driver::say("0")?;
    while let Some(line) = asked.pop().await {
        let (writers, time) = driver::parse(&line)?;
        let began = net::now();
        let took = appends(&replica, writers, time).await?;
        driver::say(&driver::summary(took, net::now() - began))?;
    }
    replica.stop();
    Ok(())
}

async fn appends(replica: &Replica, writers: usize, time: Duration) -> Result<Vec<u64>, Box<dyn Error>> {
    let took = Rc::new(RefCell::new(Vec::new()));
    let end = net::now() + time;
    let all = (0..writers).map(|writer| {
        let took = Rc::clone(&took);
        let entry: Arc<[u8]> = vec![writer as u8; driver::ENTRY_BYTES].into();
        async move {
            while net::now() < end {
                let asked = net::now();
                replica.append(Arc::clone(&entry)).await?;
                took.borrow_mut().push((net::now() - asked).as_nanos() as u64);
            }
            Ok::<_, replog::LogError>(())
        }
    });
    for outcome in join_all(all).await {
        outcome?;
    }
    Ok(took.take())
}
