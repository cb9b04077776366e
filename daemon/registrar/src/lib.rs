//! The registry on the replicated log: [`Registrar`] lets `master-core` decide and the log remember.
//!
//! One durable truth: nobody is answered before a quorum of replicas has the edit on disk. A registrar that is demoted, or
//! in doubt about one write, has failed for good and says so ([`Registrar::failed`]); whoever leads next reads the log.

mod fetch;
mod registrar;
mod storage;
pub mod tool;

pub use fetch::{Contents, FetchError, contents};
pub use master_core::registrar::{NotApplied, Settings};
pub use registrar::{LeadError, Registrar, StoreTimes};
pub use storage::{Kind, Storage, StorageError};
