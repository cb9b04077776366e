//! Who was refused, told in a bounded number of lines, so that nobody fills a disk by being refused.
//!
//! Contract: the first refusal of a source for a reason is told at once. Further ones are counted and summed up in a line
//! when their window is over: ten seconds, and twice as long each time for as long as it goes on. A window without any ends
//! that: the next one is the first again. Sources and reasons are bounded; what finds no room is told and summed up
//! together. [`Ledger`] decides and is pure; [`Refusals`] has the clock and the log.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::executor::spawn;
use crate::timer::sleep_until;

const WINDOW: Duration = Duration::from_secs(10);
const WINDOW_MAX: Duration = Duration::from_secs(300);
/// Sources with their reasons that are told apart.
const ENTRIES_MAX: usize = 64;
/// Of one source: a text may have something of the peer's in it, and be another one each time.
const REASONS_MAX: usize = 4;
const REASON_CHARACTERS: usize = 240;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// By a socket in the file system.
    Local,
    Network(IpAddr),
    /// All that there is no room for.
    Others,
}

impl Source {
    /// Who has one address of IPv6 has as many as the network behind it.
    fn of(peer: Option<IpAddr>) -> Self {
        match peer.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V6(address)) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                let own = address.is_loopback() || address.is_unicast_link_local();
                let network = if own {
                    address
                } else {
                    Ipv6Addr::from_bits(network)
                };
                Self::Network(network.into())
            }
            Some(address) => Self::Network(address),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => formatter.write_str("this host"),
            Self::Network(address) => address.fmt(formatter),
            Self::Others => formatter.write_str("other addresses"),
        }
    }
}

struct Entry {
    source: Source,
    /// None: for all other reasons.
    reason: Option<String>,
    since: Instant,
    window: Duration,
    /// Since then, and not told.
    count: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Summary {
    source: Source,
    reason: Option<String>,
    count: u64,
    seconds: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.reason.as_deref().unwrap_or("for several reasons");
        write!(
            formatter,
            "refused {} more from {} in {} s: {reason}",
            self.count, self.source, self.seconds
        )
    }
}

#[derive(Default)]
struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    /// Whether this one is to be told; else it is counted.
    fn refused(&mut self, now: Instant, source: Source, reason: &str) -> bool {
        let known = self.entries.iter().filter(|entry| entry.source == source).count();
        let has_room = self.entries.len() < ENTRIES_MAX;
        // The most exact entry that there is, or that there is room for.
        for (source, reason, may_be_made) in [
            (source, Some(reason), has_room && known + 1 < REASONS_MAX),
            (source, None, has_room),
            (Source::Others, None, true),
        ] {
            let entry = self
                .entries
                .iter_mut()
                .find(|entry| entry.source == source && entry.reason.as_deref() == reason);
            if let Some(entry) = entry {
                entry.count += 1;
                return false;
            }
            if may_be_made {
                self.entries.push(Entry {
                    source,
                    reason: reason.map(str::to_owned),
                    since: now,
                    window: WINDOW,
                    count: 0,
                });
                return true;
            }
        }
        false
    }

    /// What is to be told now.
    fn due(&mut self, now: Instant) -> Vec<Summary> {
        let mut summaries = Vec::new();
        self.entries.retain_mut(|entry| {
            let passed = now.saturating_duration_since(entry.since);
            if passed < entry.window {
                return true;
            }
            if entry.count == 0 {
                return false;
            }
            summaries.push(Summary {
                source: entry.source,
                reason: entry.reason.clone(),
                count: std::mem::take(&mut entry.count),
                seconds: passed.as_secs(),
            });
            entry.since = now;
            entry.window = (entry.window * 2).min(WINDOW_MAX);
            true
        });
        summaries
    }

    /// When to look again.
    fn deadline(&self) -> Option<Instant> {
        let ends = self.entries.iter().map(|entry| entry.since + entry.window);
        ends.min()
    }
}

/// Of one listener, or of several; clones are the same. Used on the loop that it was made on.
#[derive(Clone, Default)]
pub struct Refusals(Rc<Inner>);

#[derive(Default)]
struct Inner {
    ledger: RefCell<Ledger>,
    /// Somebody waits for the ends of windows.
    watched: Cell<bool>,
}

impl Refusals {
    /// `Some`: the caller is to warn, with this text, which is cut to a bearable length and one line; `None`: it is counted.
    /// `peer` is none on a socket of this host.
    pub fn first(&self, peer: Option<SocketAddr>, reason: impl fmt::Display) -> Option<String> {
        let reason: String = reason
            .to_string()
            .chars()
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .take(REASON_CHARACTERS)
            .collect();
        let source = Source::of(peer.map(|peer| peer.ip()));
        let is_first = self.0.ledger.borrow_mut().refused(clock::now(), source, &reason);
        self.watch();
        is_first.then_some(reason)
    }

    fn watch(&self) {
        if self.0.watched.replace(true) {
            return;
        }
        let inner = Rc::downgrade(&self.0);
        spawn(async move {
            loop {
                let Some(strong) = inner.upgrade() else { return };
                let Some(deadline) = strong.ledger.borrow().deadline() else {
                    strong.watched.set(false);
                    return;
                };
                drop(strong);
                sleep_until(deadline).await;
                let Some(strong) = inner.upgrade() else { return };
                for summary in strong.ledger.borrow_mut().due(clock::now()) {
                    tracing::warn!("{summary}");
                }
            }
        })
        .detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> Source {
        Source::of(Some(IpAddr::from((0x0a00_0000 + number).to_be_bytes())))
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_is_told_and_the_rest_is_summed_up_ever_more_rarely() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        assert!(ledger.refused(start, address(3), "TLS"));
        let mut told = Vec::new();
        for tenth in 1..=36_000_u64 {
            let now = start + Duration::from_millis(tenth * 100);
            assert!(!ledger.refused(now, address(3), "TLS"));
            told.extend(ledger.due(now));
        }
        let line = told[0].to_string();
        assert_eq!(line, "refused 100 more from 10.0.0.3 in 10 s: TLS");
        let seconds: Vec<u64> = told.iter().map(|summary| summary.seconds).collect();
        assert_eq!(seconds[..6], [10, 20, 40, 80, 160, 300]);
        assert!(told.len() < 20, "an hour, ten times a second: {}", told.len());
        let counted: u64 = told.iter().map(|summary| summary.count).sum();
        assert_eq!(counted + ledger.entries[0].count, 36_000, "none is forgotten");
    }

    #[test]
    fn whoever_was_quiet_for_a_window_is_told_again() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        assert!(ledger.refused(start, address(1), "TLS"));
        assert_eq!(ledger.deadline(), Some(after(start, 10)));
        assert!(ledger.due(after(start, 9)).is_empty() && !ledger.entries.is_empty());
        assert!(ledger.due(after(start, 10)).is_empty());
        assert_eq!(ledger.deadline(), None);
        assert!(ledger.refused(after(start, 10), address(1), "TLS"));
    }

    #[test]
    fn sources_and_reasons_are_told_apart_up_to_a_bound() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let mut told = 0;
        for number in 0..1000 {
            let reason = format!("a text of the peer's, {number}");
            told += usize::from(ledger.refused(start, address(1), &reason));
        }
        assert_eq!(told, REASONS_MAX);
        assert!(ledger.refused(start, address(2), "TLS"), "another source is told");
        assert!(
            ledger.refused(start, address(2), "plain text"),
            "and another reason"
        );
        for number in 3..10_000 {
            told += usize::from(ledger.refused(start, address(number), "TLS"));
        }
        assert!(ledger.entries.len() <= ENTRIES_MAX + 1 && told <= ENTRIES_MAX + 1);
        let summaries = ledger.due(after(start, 10));
        let of = |source: Source| summaries.iter().find(|summary| summary.source == source);
        assert_eq!(of(address(1)).unwrap().count, 1000 - REASONS_MAX as u64);
        assert!(of(Source::Others).unwrap().count > 9000);
        let counted: u64 = summaries.iter().map(|summary| summary.count).sum();
        assert_eq!(counted as usize + told + 2, 1000 + 2 + 9997, "none is forgotten");
        // All windows pass without another one.
        assert!(ledger.due(after(start, 30)).is_empty());
        assert_eq!((ledger.entries.len(), ledger.deadline()), (0, None));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| Source::of(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.3"), address(3));
        assert_eq!(of("::1").to_string(), "::1");
    }

    #[test]
    fn what_is_told_is_one_line_of_bearable_length() {
        crate::run(crate::Config::default(), async {
            let refusals = Refusals::default();
            let forged = format!("bad\n2026-11-22 ERROR all is lost {}", "x".repeat(100_000));
            let told = refusals.first(None, &forged).unwrap();
            assert!(!told.contains('\n') && told.len() == REASON_CHARACTERS, "{told}");
            assert!(refusals.first(None, &forged).is_none());
        })
        .unwrap();
    }
}
