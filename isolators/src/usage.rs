//! Sampling: files opened once, read with one pread each, parsed without an allocation.

use std::os::fd::{AsFd, OwnedFd};

use kernel::cgroup::Group;
use kernel::file::{Access, KernelFileError, sample};
use model::{HostSupport, Limit, Limits, Usage};

use crate::ports::TrafficReader;

/// A statistics file that is kept open, and how it is read.
pub struct UsageFile {
    fd: OwnedFd,
    parse: fn(&[u8], &mut Usage),
}

impl UsageFile {
    /// Opens a file and adds it; false: this kernel, or this container, does not have it.
    pub fn open(
        group: Group<'_>,
        file: &str,
        parse: fn(&[u8], &mut Usage),
        files: &mut Vec<Self>,
    ) -> Result<bool, KernelFileError> {
        match group.tree.open(group.name, file, Access::Read) {
            Ok(fd) => {
                files.push(Self { fd, parse });
                Ok(true)
            }
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Statistics of one container. Eight descriptors on v1, hybrid and v2; io limits add two (v1) or one (v2),
/// pressure three where the kernel counts it.
///
/// A file that was read once keeps a page of the kernel's until it is closed (`seq_file`): 44 kB for one container, which
/// is why a [`reduced`](Self::reduced) reader is kept of those that do nothing.
pub struct UsageReader {
    files: Vec<UsageFile>,
    traffic: Option<TrafficReader>,
    whole: bool,
}

impl UsageReader {
    pub(crate) fn new(mut files: Vec<UsageFile>, traffic: Option<TrafficReader>) -> Self {
        files.shrink_to_fit();
        Self {
            files,
            traffic,
            whole: true,
        }
    }

    /// All that a sample needs is open.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Closes all files but those that tell whether the container has run; ports and traffic cost no descriptor.
    #[must_use]
    pub fn reduced(mut self, buffer: &mut Vec<u8>) -> Self {
        let mut usage = Usage::default();
        let last = self.files.iter().position(|file| {
            if let Some(text) = sample(file.fd.as_fd(), buffer) {
                (file.parse)(text, &mut usage);
            }
            cpu_times(&usage).is_some()
        });
        // None: it has ended, and goes soon.
        if let Some(last) = last {
            self.files.truncate(last + 1);
            self.files.shrink_to_fit();
            self.whole = false;
        }
        self
    }

    /// Reads everything that is open; `timestamp` is left 0. What can not be read, because the container has ended
    /// meanwhile, is absent.
    pub fn sample(&self, buffer: &mut Vec<u8>) -> Usage {
        let mut usage = Usage::default();
        for file in &self.files {
            if let Some(text) = sample(file.fd.as_fd(), buffer) {
                (file.parse)(text, &mut usage);
            }
        }
        if let Some(traffic) = self.traffic.as_ref().and_then(TrafficReader::read) {
            traffic.fill(&mut usage);
        }
        usage
    }

    /// Processor time so far, in user and kernel mode: what tells by one or two reads whether anything has happened. `None`:
    /// the container has ended meanwhile.
    pub fn cpu_times(&self, buffer: &mut Vec<u8>) -> Option<(f64, f64)> {
        let mut usage = Usage::default();
        self.files.iter().find_map(|file| {
            (file.parse)(sample(file.fd.as_fd(), buffer)?, &mut usage);
            cpu_times(&usage)
        })
    }

    /// The reads of a sample without their meaning: what a benchmark compares with. Returns the bytes read.
    pub fn read_only(&self, buffer: &mut Vec<u8>) -> usize {
        self.files
            .iter()
            .filter_map(|file| sample(file.fd.as_fd(), buffer).map(<[u8]>::len))
            .sum()
    }

    /// What the container's port policy has refused; `None`: it has none.
    pub fn refusals(&self) -> Option<bpf::ports::Refusals> {
        self.traffic.as_ref()?.refusals()
    }

    /// Descriptors that are kept open.
    pub fn descriptors(&self) -> usize {
        self.files.len()
    }
}

/// As [`UsageReader::cpu_times`], of a sample.
pub fn cpu_times(usage: &Usage) -> Option<(f64, f64)> {
    Some((usage.cpus_user_time_secs?, usage.cpus_system_time_secs?))
}

/// Adds the limits in force, as Mesos reports them: without a ceiling it is what the host has.
pub fn limits_into(limits: &Limits, host: &HostSupport, usage: &mut Usage) {
    usage.cpus_limit = match limits.cpu_limit {
        Some(Limit::Max) => Some(f64::from(host.cpus)),
        Some(Limit::Value(cpus)) => Some(cpus.as_f64()),
        None => limits.cpus.map(|cpus| cpus.as_f64()),
    };
    usage.cpus_soft_limit = limits.cpus.map(|cpus| cpus.as_f64());
    usage.mem_limit_bytes = match limits.mem {
        Some(Limit::Value(bytes)) => Some(bytes.get()),
        Some(Limit::Max) => Some(host.memory.get()),
        None => None,
    };
    usage.mem_soft_limit_bytes = limits.mem_soft.map(|bytes| bytes.get());
    usage.disk_limit_bytes = limits.disk.and_then(Limit::value).map(|bytes| bytes.get());
    // Mesos tells bytes a second.
    let bytes = |rate: model::BitsPerSecond| rate.0 / 8;
    usage.net_tx_rate_limit = limits.bandwidth.egress_ceiling().map(bytes);
    usage.net_rx_rate_limit = limits.bandwidth.ingress_ceiling().map(bytes);
    usage.net_tx_burst_size = limits.bandwidth.egress_burst.map(|burst| burst.0);
    usage.net_rx_burst_size = limits.bandwidth.ingress_burst.map(|burst| burst.0);
    usage.pids_limit = limits.pids.and_then(Limit::value).map(u64::from);
}
