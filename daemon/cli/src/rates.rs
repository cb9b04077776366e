//! Two samples of one container to what happened between them. Counters only grow while a container
//! lives; a smaller value means another container's sample, and yields no rate rather than nonsense.

use model::Usage;

use crate::human::NO_LIMIT;

/// A container's use over a span of time, ready to be shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    /// Hundred is one CPU.
    pub cpu_percent: Option<f64>,
    /// Scheduling periods in which the container was stopped at its CPU ceiling.
    pub throttled_percent: Option<f64>,
    pub io_read_bps: Option<f64>,
    pub io_write_bps: Option<f64>,
    /// Into the container and out of it: bytes and packets.
    pub net_rx_bps: Option<f64>,
    pub net_tx_bps: Option<f64>,
    pub net_rx_pps: Option<f64>,
    pub net_tx_pps: Option<f64>,
    /// Packets dropped, in both directions.
    pub net_drops_ps: Option<f64>,
    pub net_retransmits_ps: Option<f64>,
}

/// CPU time used so far, user and system.
pub fn cpu_seconds(usage: &Usage) -> Option<f64> {
    match (usage.cpus_user_time_secs, usage.cpus_system_time_secs) {
        (None, None) => None,
        (user, system) => Some(user.unwrap_or(0.0) + system.unwrap_or(0.0)),
    }
}

pub fn between(old: &Usage, new: &Usage) -> Rates {
    let seconds = new.timestamp - old.timestamp;
    if seconds <= 0.0 || !seconds.is_finite() {
        return Rates::default();
    }
    Rates {
        cpu_percent: grown(cpu_seconds(old), cpu_seconds(new)).map(|used| used / seconds * 100.0),
        throttled_percent: throttled(old, new),
        io_read_bps: grown_count(old.io_read_bytes, new.io_read_bytes).map(|n| n / seconds),
        io_write_bps: grown_count(old.io_write_bytes, new.io_write_bytes).map(|n| n / seconds),
        net_rx_bps: grown_count(old.net_rx_bytes, new.net_rx_bytes).map(|n| n / seconds),
        net_tx_bps: grown_count(old.net_tx_bytes, new.net_tx_bytes).map(|n| n / seconds),
        net_rx_pps: grown_count(old.net_rx_packets, new.net_rx_packets).map(|n| n / seconds),
        net_tx_pps: grown_count(old.net_tx_packets, new.net_tx_packets).map(|n| n / seconds),
        net_drops_ps: grown_count(net_dropped(old), net_dropped(new)).map(|n| n / seconds),
        net_retransmits_ps: grown_count(old.net_tcp_retransmits, new.net_tcp_retransmits)
            .map(|n| n / seconds),
    }
}

fn throttled(old: &Usage, new: &Usage) -> Option<f64> {
    let periods = grown_count(old.cpus_nr_periods, new.cpus_nr_periods)?;
    let stopped = grown_count(old.cpus_nr_throttled, new.cpus_nr_throttled)?;
    // Periods are counted only while something runs: none means nothing was stopped.
    Some(if periods > 0.0 {
        (stopped / periods * 100.0).min(100.0)
    } else {
        0.0
    })
}

fn grown(old: Option<f64>, new: Option<f64>) -> Option<f64> {
    Some(new? - old?).filter(|difference| *difference >= 0.0)
}

fn grown_count(old: Option<u64>, new: Option<u64>) -> Option<f64> {
    new?.checked_sub(old?).map(|difference| difference as f64)
}

/// Packets dropped so far, in both directions.
pub fn net_dropped(usage: &Usage) -> Option<u64> {
    Some(usage.net_rx_dropped? + usage.net_tx_dropped?)
}

/// The disk ceiling, if there is one.
pub fn disk_limit(usage: &Usage) -> Option<u64> {
    usage.disk_limit_bytes.filter(|&limit| limit < NO_LIMIT)
}

/// The memory ceiling, if there is one.
pub fn memory_limit(usage: &Usage) -> Option<u64> {
    usage.mem_limit_bytes.filter(|&limit| limit < NO_LIMIT)
}

/// Share of the memory ceiling in use.
pub fn memory_percent(usage: &Usage) -> Option<f64> {
    let limit = memory_limit(usage).filter(|&limit| limit > 0)?;
    Some(usage.mem_total_bytes? as f64 / limit as f64 * 100.0)
}

/// Tasks as the process ceiling counts them: threads where the host tells, else processes.
pub fn tasks(usage: &Usage) -> Option<u32> {
    usage.threads.or(usage.processes)
}

/// The process ceiling, if there is one.
pub fn tasks_limit(usage: &Usage) -> Option<u64> {
    usage.pids_limit.filter(|&limit| limit < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timestamp: f64, user: f64, system: f64) -> Usage {
        Usage {
            timestamp,
            cpus_user_time_secs: Some(user),
            cpus_system_time_secs: Some(system),
            ..Usage::default()
        }
    }

    #[test]
    fn half_a_cpu_is_fifty_percent() {
        let rates = between(&at(100.0, 1.0, 1.0), &at(102.0, 1.75, 1.25));
        assert_eq!(rates.cpu_percent, Some(50.0));
        assert_eq!(rates.throttled_percent, None);
    }

    #[test]
    fn no_time_or_shrinking_counters_yield_nothing() {
        assert_eq!(
            between(&at(100.0, 1.0, 1.0), &at(100.0, 2.0, 1.0)),
            Rates::default()
        );
        assert_eq!(
            between(&at(100.0, 5.0, 1.0), &at(101.0, 1.0, 1.0)).cpu_percent,
            None
        );
    }

    #[test]
    fn throttling_is_a_share_of_periods() {
        let old = Usage {
            cpus_nr_periods: Some(10),
            cpus_nr_throttled: Some(5),
            ..at(1.0, 0.0, 0.0)
        };
        let new = Usage {
            cpus_nr_periods: Some(20),
            cpus_nr_throttled: Some(8),
            ..at(2.0, 0.0, 0.0)
        };
        assert_eq!(between(&old, &new).throttled_percent, Some(30.0));
        assert_eq!(
            between(
                &old,
                &Usage {
                    timestamp: 3.0,
                    ..old.clone()
                }
            )
            .throttled_percent,
            Some(0.0)
        );
    }

    #[test]
    fn the_kernels_word_for_no_limit_is_no_limit() {
        let usage = Usage {
            mem_total_bytes: Some(5),
            mem_limit_bytes: Some(9_223_372_036_854_771_712),
            ..Usage::default()
        };
        assert_eq!((memory_limit(&usage), memory_percent(&usage)), (None, None));
        let usage = Usage {
            mem_limit_bytes: Some(20),
            ..usage
        };
        assert_eq!(memory_percent(&usage), Some(25.0));
    }
}
