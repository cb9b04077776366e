//! Which replica the other end of a link is, by its certificate. Without TLS everybody is who he says.
//!
//! A certificate that names `replica-ID.log.bulkhead.internal` is of these replicas alone; any other one is of those replicas
//! whose address, as this replica was started with it, is of a host that the certificate names.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net::PeerCertificate;
use replog_core::ReplicaId;

/// Between two warnings.
const TELL: Duration = Duration::from_secs(10);

/// Who is expected where.
pub struct Identities {
    addresses: BTreeMap<ReplicaId, String>,
    told: Cell<Option<Instant>>,
}

impl Identities {
    pub fn new(addresses: &BTreeMap<ReplicaId, String>) -> Self {
        Self {
            addresses: addresses.clone(),
            told: Cell::new(None),
        }
    }

    /// Whether who holds the certificate may speak as `replica`.
    pub fn is(&self, certificate: &PeerCertificate, replica: ReplicaId) -> bool {
        let named = |id: ReplicaId| certificate.names(&name_of(id));
        if named(replica) {
            return true;
        }
        let hosted = self
            .addresses
            .get(&replica)
            .is_some_and(|address| certificate.names(host_of(address)));
        hosted && !self.addresses.keys().any(|other| named(*other))
    }

    /// A link was refused: a warning, not too often.
    pub fn tell_refused(&self, replica: ReplicaId) {
        let lately = |at: Instant| net::now() - at < TELL;
        if self.told.get().is_some_and(lately) {
            return;
        }
        self.told.set(Some(net::now()));
        let expected = match self.addresses.get(&replica) {
            Some(address) => format!(
                "{} (where this replica expects it) or {}",
                host_of(address),
                name_of(replica)
            ),
            None => format!(
                "{}, or start this replica with its address as a peer",
                name_of(replica)
            ),
        };
        tracing::warn!(
            "log: somebody speaks as replica {replica} with a certificate that is not of it, and is not listened to; \
             if it is the right one, give it a certificate that names {expected}"
        );
    }
}

/// By which a certificate names a replica, wherever it runs.
fn name_of(replica: ReplicaId) -> String {
    format!("replica-{}.log.bulkhead.internal", replica.0)
}

/// Of `HOST:PORT`.
pub fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}
