//! The agent's flags about bandwidth: the ceilings of containers that name none, by Mesos' names and rules.
//!
//! `rate = max(minimum, min(maximum, per container, else per CPU × its CPUs))`. Mesos rounds CPUs down; here half a CPU has
//! half the rate.

use std::str::FromStr;

use clap::Args;
use model::{Bandwidth, BitsPerSecond, Bytes, Cpus, Fault, Limit, Limits, Network};

use crate::config::ConfigError;

#[derive(Debug, Clone, Default, Args)]
pub struct BandwidthFlags {
    /// Ceiling of what a container sends that has no --egress: 100Mbit, bytes a second as in Mesos (12500KB), or a share of
    /// the link (10%)
    #[arg(
        long,
        value_name = "RATE",
        conflicts_with = "egress_rate_per_cpu",
        env = "BULKHEAD_EGRESS_RATE_LIMIT_PER_CONTAINER"
    )]
    pub egress_rate_limit_per_container: Option<Rate>,
    /// The same for each of its --cpus; auto: the link's speed divided by the host's
    #[arg(long, value_name = "RATE", env = "BULKHEAD_EGRESS_RATE_PER_CPU")]
    pub egress_rate_per_cpu: Option<Rate>,
    /// No ceiling by these flags is lower [default: 1Mbit]
    #[arg(long, value_name = "RATE", env = "BULKHEAD_MINIMUM_EGRESS_RATE_LIMIT")]
    pub minimum_egress_rate_limit: Option<Rate>,
    /// No ceiling by these flags is higher
    #[arg(long, value_name = "RATE", env = "BULKHEAD_MAXIMUM_EGRESS_RATE_LIMIT")]
    pub maximum_egress_rate_limit: Option<Rate>,
    /// What may be sent at once after a pause, where a ceiling comes from these flags
    #[arg(long, value_name = "SIZE", env = "BULKHEAD_EGRESS_BURST")]
    pub egress_burst: Option<Bytes>,
    /// Ceiling of what a container of --network mapped receives that has no --ingress
    #[arg(
        long,
        value_name = "RATE",
        conflicts_with = "ingress_rate_per_cpu",
        env = "BULKHEAD_INGRESS_RATE_LIMIT_PER_CONTAINER"
    )]
    pub ingress_rate_limit_per_container: Option<Rate>,
    /// The same for each of its --cpus, or auto
    #[arg(long, value_name = "RATE", env = "BULKHEAD_INGRESS_RATE_PER_CPU")]
    pub ingress_rate_per_cpu: Option<Rate>,
    /// No ceiling by these flags is lower [default: 1Mbit]
    #[arg(long, value_name = "RATE", env = "BULKHEAD_MINIMUM_INGRESS_RATE_LIMIT")]
    pub minimum_ingress_rate_limit: Option<Rate>,
    /// No ceiling by these flags is higher
    #[arg(long, value_name = "RATE", env = "BULKHEAD_MAXIMUM_INGRESS_RATE_LIMIT")]
    pub maximum_ingress_rate_limit: Option<Rate>,
    /// What may be received at once after a pause, where a ceiling comes from these flags
    #[arg(long, value_name = "SIZE", env = "BULKHEAD_INGRESS_BURST")]
    pub ingress_burst: Option<Bytes>,
    /// Speed of the link, where the driver does not tell it
    #[arg(long, value_name = "RATE", env = "BULKHEAD_NETWORK_LINK_SPEED")]
    pub network_link_speed: Option<Rate>,
    /// Share the uplinks out between containers when they are full: what each uplink carries (1Gbit, or 95% of the link). Puts
    /// a queueing discipline at it, by which --network-weight and --egress-min are held [default: uplinks are left as they are]
    #[arg(long, value_name = "RATE", env = "BULKHEAD_UPLINK_RATE")]
    pub uplink_rate: Option<Rate>,
}

/// The same names in a file.
#[derive(Debug, Default)]
pub struct BandwidthFileFlags {
    pub rates: [(&'static str, Option<String>); 10],
    pub bursts: [(&'static str, Option<String>); 2],
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    Bits(u64),
    /// Of the link, 1 is all of it.
    Share(f64),
    /// The link divided by the host's CPUs.
    Auto,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "is no rate like 100Mbit, 12500KB (bytes a second), 10% or auto";
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| FORM.to_owned())?;
            return match percent > 0.0 && percent <= 100.0 {
                true => Ok(Self::Share(percent / 100.0)),
                false => Err("is not from 0% to 100%".to_owned()),
            };
        }
        let bits = match text.parse() {
            Ok(BitsPerSecond(bits)) => bits,
            Err(_) => {
                let Bytes(bytes) = text.parse().map_err(|_| FORM.to_owned())?;
                bytes.checked_mul(8).ok_or(FORM)?
            }
        };
        match bits {
            0 => Err("would let nothing through; leave the flag out for no ceiling".to_owned()),
            bits => Ok(Self::Bits(bits)),
        }
    }
}

/// Slower ones have no room for anybody's share; the kernel's tickets for faster ones would be 128 bits wide.
const UPLINK_BITS_MIN: u64 = 1_000_000;
const UPLINK_BITS_MAX: u64 = 400_000_000_000;
/// So that an agent's own talk with what it runs always gets through.
const MINIMUM_BITS: u64 = 1_000_000;

/// Of one direction, in bits a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct DirectionDefault {
    per_container: Option<u64>,
    per_cpu: Option<u64>,
    minimum: u64,
    maximum: Option<u64>,
    burst: Option<Bytes>,
}

/// What containers get that name no ceiling themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BandwidthDefaults {
    egress: DirectionDefault,
    ingress: DirectionDefault,
}

impl DirectionDefault {
    fn ceiling(&self, cpus: Option<Cpus>) -> Option<Limit<BitsPerSecond>> {
        let wanted = match (self.per_container, self.per_cpu) {
            (Some(rate), _) => rate,
            (None, Some(rate)) => (rate as f64 * cpus?.as_f64()) as u64,
            (None, None) => return None,
        };
        let most = self.maximum.unwrap_or(u64::MAX);
        Some(Limit::Value(BitsPerSecond(wanted.max(self.minimum).min(most))))
    }
}

impl BandwidthDefaults {
    /// Of a container with these limits in this network; what it names itself stays.
    pub fn fill(&self, network: Network, limits: &Limits) -> Bandwidth {
        let mut filled = limits.bandwidth;
        if network != Network::None && filled.egress.is_none() {
            filled.egress = self.egress.ceiling(limits.cpus);
            if filled.egress.is_some() {
                filled.egress_burst = filled.egress_burst.or(self.egress.burst);
            }
        }
        // With the host's network what comes in is held by nobody.
        if network == Network::Mapped && filled.ingress.is_none() {
            filled.ingress = self.ingress.ceiling(limits.cpus);
            if filled.ingress.is_some() {
                filled.ingress_burst = filled.ingress_burst.or(self.ingress.burst);
            }
        }
        filled
    }

    /// An update: a ceiling by its CPUs follows them.
    pub fn follow(&self, old: &Limits, change: &mut Limits) {
        let cpus = change.cpus.or(old.cpus);
        let pairs = [
            (&self.egress, old.bandwidth.egress, &mut change.bandwidth.egress),
            (
                &self.ingress,
                old.bandwidth.ingress,
                &mut change.bandwidth.ingress,
            ),
        ];
        for (default, before, asked) in pairs {
            if asked.is_none() && before.is_some() && before == default.ceiling(old.cpus) {
                *asked = default.ceiling(cpus);
            }
        }
    }
}

impl BandwidthFlags {
    /// What is shared out of each uplink. `link`: as for `defaults`.
    pub fn uplink_rate(&self, link: impl Fn() -> Result<u64, Fault>) -> Result<Option<BitsPerSecond>, Fault> {
        let bits = match (self.uplink_rate, self.network_link_speed) {
            (None, _) => return Ok(None),
            (Some(Rate::Bits(bits)), _) => bits,
            (Some(Rate::Share(share)), Some(Rate::Bits(link))) => (link as f64 * share) as u64,
            (Some(Rate::Share(share)), _) => (link()? as f64 * share) as u64,
            (Some(Rate::Auto), _) => {
                let message = "--uplink_rate: auto is for rates per CPU";
                return Err(Fault::invalid("uplink_rate", message).remedy("give a rate, or a share like 95%"));
            }
        };
        if !(UPLINK_BITS_MIN..=UPLINK_BITS_MAX).contains(&bits) {
            let (least, most) = (BitsPerSecond(UPLINK_BITS_MIN), BitsPerSecond(UPLINK_BITS_MAX));
            let message = format!(
                "--uplink_rate: {} is not between {least} and {most}",
                BitsPerSecond(bits)
            );
            return Err(Fault::invalid("uplink_rate", message));
        }
        Ok(Some(BitsPerSecond(bits)))
    }

    /// `link`: bits a second; asked only where a flag needs it.
    pub fn defaults(
        &self,
        cpus: u32,
        link: impl Fn() -> Result<u64, Fault>,
    ) -> Result<BandwidthDefaults, Fault> {
        let link = || match self.network_link_speed {
            Some(Rate::Bits(bits)) => Ok(bits),
            Some(_) => Err(Fault::invalid(
                "network_link_speed",
                "--network_link_speed: is no rate like 10Gbit",
            )),
            None => link(),
        };
        let bits = |flag: &str, rate: Option<Rate>| -> Result<Option<u64>, Fault> {
            Ok(match rate {
                None => None,
                Some(Rate::Bits(bits)) => Some(bits),
                Some(Rate::Share(share)) => Some((link()? as f64 * share) as u64),
                Some(Rate::Auto) if flag.ends_with("per_cpu") => Some(link()? / u64::from(cpus.max(1))),
                Some(Rate::Auto) => {
                    let message = format!("--{flag}: auto is for rates per CPU");
                    return Err(Fault::invalid(flag, message).remedy("give a rate, or a share like 10%"));
                }
            })
        };
        let egress = DirectionDefault {
            per_container: bits(
                "egress_rate_limit_per_container",
                self.egress_rate_limit_per_container,
            )?,
            per_cpu: bits("egress_rate_per_cpu", self.egress_rate_per_cpu)?,
            minimum: bits("minimum_egress_rate_limit", self.minimum_egress_rate_limit)?
                .unwrap_or(MINIMUM_BITS),
            maximum: bits("maximum_egress_rate_limit", self.maximum_egress_rate_limit)?,
            burst: self.egress_burst,
        };
        let ingress = DirectionDefault {
            per_container: bits(
                "ingress_rate_limit_per_container",
                self.ingress_rate_limit_per_container,
            )?,
            per_cpu: bits("ingress_rate_per_cpu", self.ingress_rate_per_cpu)?,
            minimum: bits("minimum_ingress_rate_limit", self.minimum_ingress_rate_limit)?
                .unwrap_or(MINIMUM_BITS),
            maximum: bits("maximum_ingress_rate_limit", self.maximum_ingress_rate_limit)?,
            burst: self.ingress_burst,
        };
        for (word, default) in [("egress", &egress), ("ingress", &ingress)] {
            check(word, default, link().ok())?;
        }
        Ok(BandwidthDefaults { egress, ingress })
    }

    /// Takes over what the file says and the command line does not.
    pub fn merge(
        &mut self,
        file: BandwidthFileFlags,
        given: impl Fn(&str) -> bool,
        bad: impl Fn(&str, String) -> ConfigError,
    ) -> Result<(), ConfigError> {
        let rates = [
            &mut self.egress_rate_limit_per_container,
            &mut self.egress_rate_per_cpu,
            &mut self.minimum_egress_rate_limit,
            &mut self.maximum_egress_rate_limit,
            &mut self.ingress_rate_limit_per_container,
            &mut self.ingress_rate_per_cpu,
            &mut self.minimum_ingress_rate_limit,
            &mut self.maximum_ingress_rate_limit,
            &mut self.network_link_speed,
            &mut self.uplink_rate,
        ];
        for (place, (name, text)) in rates.into_iter().zip(file.rates) {
            let Some(text) = text else { continue };
            let rate = text
                .parse()
                .map_err(|error| bad(name, format!("{text:?} {error}")))?;
            if !given(name) {
                *place = Some(rate);
            }
        }
        for (place, (name, text)) in [&mut self.egress_burst, &mut self.ingress_burst]
            .into_iter()
            .zip(file.bursts)
        {
            let Some(text) = text else { continue };
            let size = text
                .parse()
                .map_err(|error: model::units::UnitError| bad(name, error.to_string()))?;
            if !given(name) {
                *place = Some(size);
            }
        }
        Ok(())
    }
}

/// A default that no container could ever use up, or whose bounds cross, is a mistake.
fn check(word: &str, default: &DirectionDefault, link: Option<u64>) -> Result<(), Fault> {
    let shown = |bits: u64| BitsPerSecond(bits).to_string();
    if let (Some(rate), Some(link)) = (default.per_container, link)
        && rate > link
    {
        let flag = format!("{word}_rate_limit_per_container");
        let message = format!(
            "--{flag}: {} is more than the link's {}",
            shown(rate),
            shown(link)
        );
        return Err(Fault::invalid(flag, message).remedy("lower it, or tell --network_link_speed"));
    }
    if let Some(maximum) = default.maximum
        && maximum < default.minimum
    {
        let flag = format!("maximum_{word}_rate_limit");
        let (least, most) = (shown(default.minimum), shown(maximum));
        let message = format!("--{flag}: {most} is below the minimum, {least}");
        return Err(Fault::invalid(flag, message).remedy(format!("set --minimum_{word}_rate_limit too")));
    }
    Ok(())
}

/// Of the first uplink, in bits a second.
pub fn link_speed(uplinks: &[String]) -> Result<u64, Fault> {
    let uplink = match uplinks.first() {
        Some(name) => Some(name.clone()),
        None => kernel::system::default_interface(),
    };
    let Some(uplink) = uplink else {
        let fault = Fault::failed("no interface has a default route, so the link's speed is not known");
        return Err(fault.remedy("tell it: --network_link_speed=10Gbit"));
    };
    kernel::system::link_speed(&uplink).ok_or_else(|| {
        Fault::failed(format!("the driver of {uplink} does not tell its speed"))
            .remedy("tell it: --network_link_speed=10Gbit")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIGABIT: u64 = 1_000_000_000;

    fn limits(cpus: Option<u32>) -> Limits {
        Limits {
            cpus: cpus.map(Cpus::from_milli),
            ..Limits::default()
        }
    }

    fn flags(set: impl FnOnce(&mut BandwidthFlags)) -> Result<BandwidthDefaults, Fault> {
        let mut flags = BandwidthFlags::default();
        set(&mut flags);
        flags.defaults(4, || Ok(GIGABIT))
    }

    #[test]
    fn rates_are_bits_mesos_bytes_or_shares() {
        let rate = |text: &str| text.parse::<Rate>();
        assert_eq!(rate("100Mbit"), Ok(Rate::Bits(100_000_000)));
        assert_eq!(rate("12500KB"), Ok(Rate::Bits(12500 * 1024 * 8)));
        assert_eq!(rate("10%"), Ok(Rate::Share(0.1)));
        assert_eq!(rate("auto"), Ok(Rate::Auto));
        for wrong in ["", "0", "0%", "101%", "much", "-1Mbit"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_names_no_ceiling_gets_one_within_the_bounds() {
        let defaults = flags(|flags| {
            flags.egress_rate_per_cpu = Some(Rate::Auto);
            flags.maximum_egress_rate_limit = Some(Rate::Bits(400_000_000));
            flags.ingress_rate_limit_per_container = Some(Rate::Share(0.1));
        })
        .unwrap();
        let egress = |cpus| defaults.fill(Network::Mapped, &limits(cpus)).egress_ceiling();
        assert_eq!(egress(Some(500)), Some(BitsPerSecond(125_000_000)));
        assert_eq!(
            egress(Some(4000)),
            Some(BitsPerSecond(400_000_000)),
            "the maximum"
        );
        assert_eq!(egress(Some(1)), Some(BitsPerSecond(1_000_000)), "the minimum");
        assert_eq!(egress(None), None);
        let mapped = defaults.fill(Network::Mapped, &limits(None));
        assert_eq!(mapped.ingress_ceiling(), Some(BitsPerSecond(100_000_000)));
        assert_eq!(defaults.fill(Network::Host, &limits(None)).ingress, None);
        assert!(defaults.fill(Network::None, &limits(Some(1000))).is_unset());
        let mut own = limits(Some(1000));
        own.bandwidth.egress = Some(Limit::Max);
        assert_eq!(defaults.fill(Network::Mapped, &own).egress, Some(Limit::Max));
    }

    #[test]
    fn a_ceiling_by_cpus_follows_them_unless_it_was_named() {
        let defaults = flags(|flags| flags.egress_rate_per_cpu = Some(Rate::Bits(10_000_000))).unwrap();
        let mut old = limits(Some(1000));
        old.bandwidth = defaults.fill(Network::Mapped, &old);
        let mut change = limits(Some(2000));
        defaults.follow(&old, &mut change);
        assert_eq!(change.bandwidth.egress_ceiling(), Some(BitsPerSecond(20_000_000)));
        old.bandwidth.egress = Some(Limit::Value(BitsPerSecond(7_000_000)));
        let mut change = limits(Some(2000));
        defaults.follow(&old, &mut change);
        assert_eq!(change.bandwidth.egress, None);
    }

    #[test]
    fn what_can_not_be_is_refused_at_the_start() {
        let refused = |set: fn(&mut BandwidthFlags)| flags(set).unwrap_err().to_string();
        assert!(
            refused(|flags| flags.egress_rate_limit_per_container = Some(Rate::Bits(2 * GIGABIT)))
                .contains("more than the link's 1Gbit")
        );
        assert!(
            refused(|flags| flags.ingress_rate_limit_per_container = Some(Rate::Auto)).contains("per CPU")
        );
        assert!(
            refused(|flags| flags.maximum_egress_rate_limit = Some(Rate::Bits(1)))
                .contains("below the minimum")
        );
        let unknown = BandwidthFlags {
            egress_rate_per_cpu: Some(Rate::Auto),
            ..BandwidthFlags::default()
        };
        let fault = unknown.defaults(4, || link_speed(&["no-such-interface".to_owned()]));
        assert!(fault.unwrap_err().to_string().contains("--network_link_speed"));
    }
}
