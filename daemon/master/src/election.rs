//! From candidate to leader and back: whose turn it is, and the one leadership at a time that this process has.

use std::rc::Rc;
use std::time::Duration;

use coordination::{Candidacy, Contender, Detector, Place, Tenure};
use futures::future::{Either, select};
use model::registry::MasterRecord;
use model::task::LeaderView;
use model::{Fault, Term};
use registrar::Registrar;

use crate::config::OnLoss;
use crate::leader::Leader;
use crate::log::Log;
use crate::server::Shell;

/// Before a master that leads alone tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// Contends and leads, for ever. Ends only with what a person has to put right.
pub async fn keep_leading(shell: Rc<Shell>) -> Result<(), Fault> {
    let log = crate::log::open(&shell.config).await?;
    match shell.config.flags.zk.clone() {
        None => {
            let leading = std::pin::pin!(alone(&shell, &log));
            match select(leading, std::pin::pin!(shell.stopping.wait())).await {
                Either::Left((ended, _)) => ended,
                Either::Right(_) => Ok(()),
            }
        }
        Some(zk) => {
            let settings = coordination::Settings {
                session_timeout: shell.config.flags.zk_session_timeout,
            };
            let mut detector = Detector::start(Place::ZooKeeper(zk.clone()), settings.clone());
            let watching = shell.clone();
            let _detecting = net::spawn(async move {
                loop {
                    *watching.detected.borrow_mut() = detector.leader();
                    let leader = detector.changed().await;
                    let address = leader.as_ref().map(|leader| leader.info.http());
                    tracing::info!(
                        leader = address.map(|address| address.to_string()),
                        "leader detected"
                    );
                }
            });
            let mut contender = Contender::start(zk, &shell.info, settings);
            let ended = {
                let contending = std::pin::pin!(elected(&shell, &log, &mut contender));
                match select(contending, std::pin::pin!(shell.stopping.wait())).await {
                    Either::Left((ended, _)) => ended,
                    Either::Right(_) => Ok(()),
                }
            };
            contender.withdraw().await;
            ended
        }
    }
}

async fn elected(shell: &Rc<Shell>, log: &Log, contender: &mut Contender) -> Result<(), Fault> {
    let mut candidacy = contender.candidacy();
    loop {
        let Candidacy::Elected(tenure) = candidacy else {
            candidacy = contender.changed().await;
            continue;
        };
        let term = tenure.term();
        tracing::info!(%term, "elected");
        let (why, next) = {
            let leading = std::pin::pin!(lead(shell, log, tenure.clone()));
            let lost = std::pin::pin!(lost(contender, &tenure));
            match select(leading, lost).await {
                Either::Left((why, _)) => (why, None),
                Either::Right((next, _)) => ("the election was lost".to_owned(), Some(next)),
            }
        };
        shell.lead_no_more();
        tracing::warn!(%term, "this master leads no more: {why}");
        if shell.config.flags.on_leadership_loss == OnLoss::Exit {
            return Err(Fault::failed(format!("leadership was lost: {why}")));
        }
        candidacy = match next {
            Some(next) => next,
            // Still elected, but the log has another writer, or is gone: let others try as well.
            None => {
                net::sleep(PAUSE).await;
                contender.candidacy()
            }
        };
    }
}

async fn lost(contender: &mut Contender, tenure: &Tenure) -> Candidacy {
    loop {
        let next = contender.changed().await;
        if next != Candidacy::Elected(tenure.clone()) {
            return next;
        }
    }
}

async fn alone(shell: &Rc<Shell>, log: &Log) -> Result<(), Fault> {
    loop {
        let held = registrar::contents(&log.storage, false)
            .await
            .map_err(|error| Fault::from_error(model::FaultKind::Failed, &error))?;
        let last = held.registry.master.map_or(0, |master| master.term);
        // It grows with each start even if the registry was lost, and stays below the terms that ZooKeeper gives.
        let term = Term((last + 1).max(net::wall_ms() / 1000));
        let why = lead(shell, log, Tenure::uncontested(term)).await;
        shell.lead_no_more();
        tracing::error!(%term, "this master leads no more: {why}");
        if shell.config.flags.on_leadership_loss == OnLoss::Exit {
            return Err(Fault::failed(format!("leadership was lost: {why}")));
        }
        net::sleep(PAUSE).await;
    }
}

/// One leadership, until it is over; why.
async fn lead(shell: &Rc<Shell>, log: &Log, tenure: Tenure) -> String {
    let config = &shell.config;
    let term = tenure.term();
    let view = LeaderView {
        // Of this leadership: a master that leads twice gives its agents ids that differ.
        id: format!("{}-{:x}", shell.info.id, term.0),
        address: shell.info.rpc().to_string(),
        hostname: config.hostname.clone(),
        version: crate::VERSION.to_owned(),
        term: term.0,
        elected_at_ms: net::wall_ms(),
    };
    let record = MasterRecord {
        id: view.id.clone(),
        hostname: view.hostname.clone(),
        address: view.address.clone(),
        version: view.version.clone(),
        term: term.0,
    };
    let began = net::now();
    let registrar = match Registrar::lead(log.storage.clone(), record, config.registrar()).await {
        Ok(registrar) => registrar,
        Err(error) => return error.to_string(),
    };
    let missing: Vec<String> = master_core::registry::missing_capabilities(&registrar.registry())
        .into_iter()
        .map(str::to_owned)
        .collect();
    if !missing.is_empty() {
        return format!(
            "the registry needs {}, which this version does not know: use the newer program that wrote it",
            missing.join(", ")
        );
    }
    let agents = registrar.registry().agents.len();
    let leader = Leader::begin(config, view, registrar, tenure);
    let took = net::now() - began;
    tracing::info!(%term, agents, recovered_in = ?took, "leading");
    shell.lead(leader.clone());
    leader.over().await
}
