//! etcd and ZooKeeper as Debian has them, three of each, with their own defaults: durable writes are among them.

use std::path::Path;
use std::process::Command;

use super::{Daemon, Outcome, addresses, patiently, zookeeper};
use crate::floor::Helper;

type Started = (Helper, Vec<Daemon>);

const JARS: &str = "/usr/share/java/zookeeper.jar";

fn driver(name: &str, addresses: &[String]) -> Outcome<Helper> {
    let own = std::env::current_exe()?;
    Ok(Helper::start(Command::new(own).arg(name).args(addresses))?)
}

pub fn etcd(directory: &Path) -> Outcome<Started> {
    std::fs::create_dir_all(directory)?;
    let taken = addresses(6)?;
    let (clients, peers) = taken.split_at(3);
    let url = |address: &String| format!("http://{address}");
    let cluster: Vec<String> = (0..3).map(|id| format!("n{id}={}", url(&peers[id]))).collect();
    let mut servers = Vec::new();
    for id in 0..3 {
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("n{id}"), "--data-dir"]);
        command.arg(directory.join(format!("n{id}")));
        command.args(["--listen-client-urls", &url(&clients[id])]);
        command.args(["--advertise-client-urls", &url(&clients[id])]);
        command.args(["--listen-peer-urls", &url(&peers[id])]);
        command.args(["--initial-advertise-peer-urls", &url(&peers[id])]);
        command.args([
            "--initial-cluster",
            &cluster.join(","),
            "--initial-cluster-state",
            "new",
        ]);
        command.args(["--logger", "zap", "--log-level", "error"]);
        servers.push(Daemon::start(
            &mut command,
            &directory.join(format!("n{id}.log")),
        )?);
    }
    let mut client = None;
    patiently("etcd has a leader", || {
        let dead = servers.iter_mut().any(Daemon::has_ended);
        client = if dead {
            None
        } else {
            driver("etcd-drive", clients).ok()
        };
        client.is_some() || dead
    })?;
    let client = client.ok_or("etcd ended; is etcd-server installed?")?;
    Ok((client, servers))
}

pub fn zookeeper(directory: &Path) -> Outcome<Started> {
    if !Path::new(JARS).exists() {
        return Err(format!("{JARS} is not there; scripts/setup --bench installs it").into());
    }
    let taken = addresses(9)?;
    let port = |at: usize| taken[at].rsplit_once(':').map_or("", |(_, port)| port).to_owned();
    let mut servers = Vec::new();
    for id in 1..=3 {
        let data = directory.join(format!("s{id}"));
        std::fs::create_dir_all(&data)?;
        std::fs::write(data.join("myid"), format!("{id}\n"))?;
        let mut text = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\n",
            data.display(),
            port(id - 1)
        );
        for other in 1..=3 {
            let (peer, election) = (port(other + 2), port(other + 5));
            text += &format!("server.{other}=127.0.0.1:{peer}:{election}\n");
        }
        let file = data.join("zoo.cfg");
        std::fs::write(&file, text)?;
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-cp", JARS]);
        command
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file);
        servers.push(Daemon::start(
            &mut command,
            &directory.join(format!("s{id}.log")),
        )?);
    }
    let clients = &taken[..3];
    patiently("ZooKeeper has a leader", || {
        clients
            .iter()
            .filter(|address| zookeeper::mode(address).is_ok())
            .count()
            == 3
    })?;
    Ok((driver("zookeeper-drive", clients)?, servers))
}
