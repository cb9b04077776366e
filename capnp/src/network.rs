//! Ports and bandwidth.

use model::{Bandwidth, BitsPerSecond, Bytes, Fault, Limit, PortGrant, PortRange, PortRanges, PortRequest};

use crate::bounds::{PORT_RANGES_MAX, check_length};
use crate::value::{limit, optional_number, set_limit, some, unknown, within};
use crate::value_capnp::{bandwidth, port_grant, port_range, port_request};

type List<'a> = capnp::struct_list::Reader<'a, port_range::Owned>;

fn encode_range(range: PortRange, mut builder: port_range::Builder<'_>) {
    builder.set_first(range.first());
    builder.set_last(range.last());
}

fn decode_range(field: &str, reader: port_range::Reader<'_>) -> Result<PortRange, Fault> {
    let (first, last) = (reader.get_first(), reader.get_last());
    PortRange::new(first, last)
        .ok_or_else(|| Fault::invalid(field, format!("{first}-{last} is no range of ports")))
}

fn encode_ranges(ranges: &PortRanges, mut list: capnp::struct_list::Builder<'_, port_range::Owned>) {
    for (index, range) in ranges.ranges().iter().enumerate() {
        encode_range(*range, list.reborrow().get(index as u32));
    }
}

fn decode_ranges(field: &str, list: capnp::Result<List<'_>>) -> Result<PortRanges, Fault> {
    let list = some(field, list)?;
    check_length(field, list.len() as usize, PORT_RANGES_MAX)?;
    list.iter().map(|range| decode_range(field, range)).collect()
}

pub(crate) fn encode_request(request: &PortRequest, mut builder: port_request::Builder<'_>) {
    match request {
        PortRequest::Any(count) => builder.set_any(*count),
        PortRequest::Row(count) => builder.set_row(*count),
        PortRequest::These(ports) => {
            encode_ranges(ports, builder.init_these(ports.ranges().len() as u32));
        }
    }
}

pub(crate) fn decode_request(reader: port_request::Reader<'_>) -> Result<PortRequest, Fault> {
    match reader.which() {
        Ok(port_request::Any(count)) => Ok(PortRequest::Any(count)),
        Ok(port_request::Row(count)) => Ok(PortRequest::Row(count)),
        Ok(port_request::These(list)) => decode_ranges("ports", list).map(PortRequest::These),
        Err(new) => Err(unknown("ports", new)),
    }
}

pub(crate) fn encode_grant(grant: &PortGrant, mut builder: port_grant::Builder<'_>) {
    let count = grant.allotted.ranges().len() as u32;
    encode_ranges(&grant.allotted, builder.reborrow().init_allotted(count));
    if let Some(range) = grant.ephemeral {
        encode_range(range, builder.init_ephemeral());
    }
}

pub(crate) fn decode_grant(reader: port_grant::Reader<'_>) -> Result<PortGrant, Fault> {
    Ok(PortGrant {
        allotted: decode_ranges("grant.allotted", reader.get_allotted())?,
        ephemeral: match reader.has_ephemeral() {
            false => None,
            true => {
                const FIELD: &str = "grant.ephemeral";
                Some(decode_range(FIELD, some(FIELD, reader.get_ephemeral())?)?)
            }
        },
    })
}

pub(crate) fn encode_bandwidth(bandwidth: &Bandwidth, mut builder: bandwidth::Builder<'_>) {
    let bits = |limit: Limit<BitsPerSecond>| match limit {
        Limit::Max => Limit::Max,
        Limit::Value(rate) => Limit::Value(rate.0),
    };
    if let Some(rate) = bandwidth.egress {
        set_limit(bits(rate), builder.reborrow().init_egress_bits());
    }
    if let Some(rate) = bandwidth.ingress {
        set_limit(bits(rate), builder.reborrow().init_ingress_bits());
    }
    if let Some(burst) = bandwidth.egress_burst {
        builder.reborrow().init_egress_burst_bytes().set_value(burst.0);
    }
    if let Some(burst) = bandwidth.ingress_burst {
        builder.reborrow().init_ingress_burst_bytes().set_value(burst.0);
    }
    if let Some(rate) = bandwidth.egress_min {
        builder.reborrow().init_egress_min_bits().set_value(rate.0);
    }
    if let Some(rate) = bandwidth.ingress_min {
        builder.reborrow().init_ingress_min_bits().set_value(rate.0);
    }
    if let Some(weight) = bandwidth.weight {
        builder.init_weight().set_value(weight.into());
    }
}

pub(crate) fn decode_bandwidth(reader: bandwidth::Reader<'_>) -> Result<Bandwidth, Fault> {
    let rate = |value: Option<Limit<u64>>| {
        value.map(|limit| match limit {
            Limit::Max => Limit::Max,
            Limit::Value(bits) => Limit::Value(BitsPerSecond(bits)),
        })
    };
    let read = || {
        let weight = optional_number("weight", reader.get_weight())?;
        Ok(Bandwidth {
            egress: rate(limit("egress", reader.get_egress_bits())?),
            ingress: rate(limit("ingress", reader.get_ingress_bits())?),
            egress_burst: optional_number("egress_burst", reader.get_egress_burst_bytes())?.map(Bytes),
            ingress_burst: optional_number("ingress_burst", reader.get_ingress_burst_bytes())?.map(Bytes),
            weight: weight
                .map(u32::try_from)
                .transpose()
                .map_err(|error| Fault::invalid("weight", error.to_string()))?,
            egress_min: optional_number("egress_min", reader.get_egress_min_bits())?.map(BitsPerSecond),
            ingress_min: optional_number("ingress_min", reader.get_ingress_min_bits())?.map(BitsPerSecond),
        })
    };
    read().map_err(|fault| within(fault, "bandwidth"))
}
