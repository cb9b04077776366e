//! What bounds the agent; each with the reason for its default.

use model::{IdRange, Millis};

use crate::ports::PortPool;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Containers that are not over. About a dozen descriptors each: 4096 fit the usual hard limit of
    /// a service (65536), the shell lowers it where descriptors are fewer.
    pub containers_max: usize,
    /// Ended containers that are still listed, waited for and inspected; about 2 kB each.
    pub remembered_max: usize,
    /// A kill of everything that has not ended the init after this long is repeated (a process in
    /// uninterruptible sleep dies only when the kernel lets it); the time doubles up to `kill_retry_max`.
    pub kill_retry: Millis,
    pub kill_retry_max: Millis,
    /// First delay before a busy cleanup is tried again; doubles up to `cleanup_retry_max`.
    pub cleanup_retry_first: Millis,
    pub cleanup_retry_max: Millis,
    /// After the init reported a failed step it exits by itself; it is killed if it does not.
    pub failed_init_patience: Millis,
    /// From the gate's opening to the report that the command runs. Covers slow file systems.
    pub start_patience: Millis,
    /// Ids for user-namespaced containers.
    pub id_pool: Option<IdRange>,
    pub ports: PortPool,
    /// Longest time that what a finished container left is kept, on an empty disk: Mesos' week.
    pub gc_delay: Millis,
    /// Share of the disk, from 0 to 1, that is to stay free: as Mesos has it.
    pub gc_headroom: f64,
    /// First delay before a removal that failed is tried again; doubles up to `removal_retry_max`. What is in the way
    /// (a mount, an immutable file, a broken disk) goes by a person's hand.
    pub removal_retry_first: Millis,
    pub removal_retry_max: Millis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            containers_max: 4096,
            remembered_max: 1000,
            kill_retry: Millis::secs(5),
            kill_retry_max: Millis::secs(60),
            cleanup_retry_first: Millis(10),
            cleanup_retry_max: Millis::secs(5),
            failed_init_patience: Millis::secs(2),
            start_patience: Millis::secs(60),
            id_pool: None,
            ports: PortPool::default(),
            gc_delay: Millis::secs(7 * 24 * 3600),
            gc_headroom: 0.1,
            removal_retry_first: Millis::secs(1),
            removal_retry_max: Millis::secs(600),
        }
    }
}
