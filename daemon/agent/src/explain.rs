//! What would happen to a packet, in the words of the data path and of the port policies.

use std::rc::Rc;

use isolators::network as path;
use model::network::{PacketExplanation, PacketOrigin, PacketQuestion, Transport};
use model::{ContainerId, Fault, Network};

use crate::launch::blocking;
use crate::shell::Shell;

pub async fn explain(shell: &Rc<Shell>, question: &PacketQuestion) -> Result<PacketExplanation, Fault> {
    let from = match &question.from {
        PacketOrigin::Outside => path::Origin::Outside,
        PacketOrigin::Host => path::Origin::Host,
        PacketOrigin::Container(name) => origin(shell, name)?,
    };
    let asked = path::PacketQuestion {
        from,
        transport: match question.transport {
            Transport::Tcp => path::Transport::Tcp,
            Transport::Udp => path::Transport::Udp,
            Transport::Icmp => path::Transport::Icmp,
        },
        destination: question.destination,
        destination_port: question.destination_port,
        source_port: question.source_port,
    };
    let network = shell.network.clone();
    let found = blocking(shell, move || network.explain(&asked)).await?;
    let mut answer = match found {
        Some(found) => PacketExplanation {
            verdict: verdict(shell, &found.verdict),
            steps: found.steps,
        },
        None => PacketExplanation {
            verdict: "the host's own stack".to_owned(),
            steps: vec!["no container has a network behind the host's address".to_owned()],
        },
    };
    answer.steps.extend(owner(shell, question.destination_port));
    Ok(answer)
}

/// A container in the host's network sends as the host does.
fn origin(shell: &Shell, name: &str) -> Result<path::Origin, Fault> {
    let core = shell.core();
    let id = core.find(name)?;
    match core.status(&id).map(|status| status.network) {
        Some(Network::Mapped) => Ok(path::Origin::Container(id)),
        Some(Network::Host) => Ok(path::Origin::Host),
        _ => {
            let message = format!("container {name} has loopback only and sends nothing");
            Err(Fault::invalid("from", message))
        }
    }
}

fn verdict(shell: &Shell, verdict: &path::Verdict) -> String {
    match verdict {
        path::Verdict::Host => "the host's own stack".to_owned(),
        path::Verdict::Container(id) => format!("container {}", named(shell, id)),
        path::Verdict::Uplink(name) => format!("leaves by {name}"),
        path::Verdict::Dropped(reason) => format!("dropped: {reason}"),
    }
}

fn named(shell: &Shell, id: &ContainerId) -> String {
    let core = shell.core();
    match core.status(id).and_then(|status| status.name.as_ref()) {
        Some(name) => format!("{name} ({id})"),
        None => id.to_string(),
    }
}

/// Who has the port, which decides for containers in the host's network too.
fn owner(shell: &Shell, port: u16) -> Option<String> {
    let core = shell.core();
    let Some(id) = core.port_owner(port).cloned() else {
        return (port != 0).then(|| format!("port {port} is no container's"));
    };
    let network = core.status(&id).map(|status| status.network)?;
    drop(core);
    let how = match network {
        Network::Host => "in the host's network; no other container with ports may bind it",
        _ => "behind the host's address",
    };
    Some(format!(
        "port {port} belongs to container {}, {how}",
        named(shell, &id)
    ))
}
