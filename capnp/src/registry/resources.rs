//! Resources and attributes, both ways.

use std::collections::{BTreeMap, BTreeSet};

use capnp::struct_list;
use model::Fault;
use model::resources::{
    Amount, Attribute, AttributeValue, Attributes, DiskInfo, DiskSource, Ranges, Reservation, Resource,
    Resources, Role, Scalar, VolumeInfo,
};

use super::get::{Result, items, scalar, strings, words};
use crate::bounds::TextBudget;
use crate::registry_capnp::{attribute, disk_info, range, reservation, resource};
use crate::value::{set_texts, some, text, unknown};

pub(super) fn put_all(resources: &Resources, mut list: struct_list::Builder<'_, resource::Owned>) {
    for (at, one) in (0..).zip(resources) {
        put(one, list.reborrow().get(at));
    }
}

fn put(one: &Resource, mut builder: resource::Builder<'_>) {
    builder.set_name(&one.name);
    let mut amount = builder.reborrow().init_amount();
    match &one.amount {
        Amount::Scalar(scalar) => amount.set_milli(scalar.milli()),
        Amount::Ranges(ranges) => put_ranges(ranges, amount.init_ranges(ranges.intervals().len() as u32)),
        Amount::Set(set) => {
            set_texts(set.iter().map(String::as_str), amount.init_set(set.len() as u32));
        }
    }
    let mut layers = builder
        .reborrow()
        .init_reservations(one.reservations.len() as u32);
    for (at, layer) in (0..).zip(&one.reservations) {
        put_reservation(layer, layers.reborrow().get(at));
    }
    if let Some(disk) = &one.disk {
        put_disk(disk, builder.reborrow().init_disk());
    }
    builder.set_revocable(one.revocable);
    builder.set_shared(one.shared);
    if let Some(provider) = &one.provider {
        builder.set_provider(provider);
    }
}

fn put_ranges(ranges: &Ranges, mut list: struct_list::Builder<'_, range::Owned>) {
    for (at, (begin, end)) in (0..).zip(ranges.intervals()) {
        let mut one = list.reborrow().get(at);
        one.set_begin(*begin);
        one.set_end(*end);
    }
}

fn put_reservation(layer: &Reservation, mut builder: reservation::Builder<'_>) {
    builder.set_fixed(layer.fixed);
    builder.set_role(layer.role.as_str());
    if let Some(principal) = &layer.principal {
        builder.set_principal(principal);
    }
    let mut labels = builder.init_labels(layer.labels.len() as u32);
    for (at, (key, value)) in (0..).zip(&layer.labels) {
        let mut label = labels.reborrow().get(at);
        label.set_key(key);
        if let Some(value) = value {
            label.set_value(value);
        }
    }
}

fn put_disk(disk: &DiskInfo, mut builder: disk_info::Builder<'_>) {
    if let Some(volume) = &disk.volume {
        let mut persistent = builder.reborrow().init_volume().init_persistent();
        persistent.set_id(&volume.id);
        if let Some(principal) = &volume.principal {
            persistent.set_principal(principal);
        }
        persistent.set_container_path(&volume.container_path);
    }
    let mut source = builder.init_source();
    match &disk.source {
        None => source.set_root(()),
        Some(DiskSource::Path(path)) => source.set_path(path),
        Some(DiskSource::Mount(path)) => source.set_mount(path),
    }
}

pub(super) fn put_attributes(attributes: &Attributes, mut list: struct_list::Builder<'_, attribute::Owned>) {
    for (at, one) in (0..).zip(&attributes.0) {
        let mut builder = list.reborrow().get(at);
        builder.set_name(&one.name);
        let mut value = builder.init_value();
        match &one.value {
            AttributeValue::Scalar(scalar) => value.set_milli(scalar.milli()),
            AttributeValue::Ranges(ranges) => {
                put_ranges(ranges, value.init_ranges(ranges.intervals().len() as u32));
            }
            AttributeValue::Text(text) => value.set_text(text),
        }
    }
}

pub(super) fn get_all(
    field: &'static str,
    list: capnp::Result<struct_list::Reader<'_, resource::Owned>>,
    budget: &mut TextBudget,
) -> Result<Resources> {
    let list = items(field, list)?;
    list.iter().map(|reader| get(reader, budget)).collect()
}

fn get(reader: resource::Reader<'_>, budget: &mut TextBudget) -> Result<Resource> {
    use resource::amount;
    let amount = match reader.get_amount().which() {
        Ok(amount::Milli(milli)) => Amount::Scalar(scalar("resource.amount", milli)?),
        Ok(amount::Ranges(list)) => Amount::Ranges(get_ranges(list)?),
        Ok(amount::Set(list)) => Amount::Set(words("resource.set", list, budget)?),
        Err(new) => return Err(unknown("resource.amount", new)),
    };
    let mut reservations = Vec::new();
    for layer in items("resource.reservations", reader.get_reservations())? {
        reservations.push(get_reservation(layer, budget)?);
    }
    Ok(Resource {
        name: text("resource.name", reader.get_name(), budget)?,
        amount,
        reservations,
        disk: match reader.has_disk() {
            true => Some(get_disk(some("resource.disk", reader.get_disk())?, budget)?),
            false => None,
        },
        revocable: reader.get_revocable(),
        shared: reader.get_shared(),
        provider: match reader.has_provider() {
            true => Some(text("resource.provider", reader.get_provider(), budget)?),
            false => None,
        },
    })
}

fn get_ranges(list: capnp::Result<struct_list::Reader<'_, range::Owned>>) -> Result<Ranges> {
    let list = items("ranges", list)?;
    let intervals: Vec<_> = list.iter().map(|one| (one.get_begin(), one.get_end())).collect();
    Ranges::new(intervals).ok_or_else(|| Fault::invalid("ranges", "hold one that ends before it begins"))
}

pub(super) fn role(field: &str, text: &str) -> Result<Role> {
    text.parse()
        .map_err(|error: model::resources::ResourceError| Fault::invalid(field, error.to_string()))
}

fn get_reservation(reader: reservation::Reader<'_>, budget: &mut TextBudget) -> Result<Reservation> {
    let mut labels = BTreeMap::new();
    for label in items("reservation.labels", reader.get_labels())? {
        let value = match label.has_value() {
            true => Some(text("label.value", label.get_value(), budget)?),
            false => None,
        };
        labels.insert(text("label.key", label.get_key(), budget)?, value);
    }
    Ok(Reservation {
        fixed: reader.get_fixed(),
        role: role(
            "reservation.role",
            &text("reservation.role", reader.get_role(), budget)?,
        )?,
        principal: match reader.has_principal() {
            true => Some(text("reservation.principal", reader.get_principal(), budget)?),
            false => None,
        },
        labels,
    })
}

fn get_disk(reader: disk_info::Reader<'_>, budget: &mut TextBudget) -> Result<DiskInfo> {
    use disk_info::{source, volume};
    let volume = match reader.get_volume().which() {
        Ok(volume::None(())) => None,
        Ok(volume::Persistent(persistent)) => Some(VolumeInfo {
            id: text("volume.id", persistent.get_id(), budget)?,
            principal: match persistent.has_principal() {
                true => Some(text("volume.principal", persistent.get_principal(), budget)?),
                false => None,
            },
            container_path: text("volume.path", persistent.get_container_path(), budget)?,
        }),
        Err(new) => return Err(unknown("disk.volume", new)),
    };
    let source = match reader.get_source().which() {
        Ok(source::Root(())) => None,
        Ok(source::Path(path)) => Some(DiskSource::Path(text("disk.path", path, budget)?)),
        Ok(source::Mount(path)) => Some(DiskSource::Mount(text("disk.mount", path, budget)?)),
        Err(new) => return Err(unknown("disk.source", new)),
    };
    Ok(DiskInfo { volume, source })
}

pub(super) fn get_attributes(
    list: capnp::Result<struct_list::Reader<'_, attribute::Owned>>,
    budget: &mut TextBudget,
) -> Result<Attributes> {
    use attribute::value;
    let mut attributes = Vec::new();
    for reader in items("agent.attributes", list)? {
        let value = match reader.get_value().which() {
            Ok(value::Milli(milli)) => AttributeValue::Scalar(scalar("attribute.value", milli)?),
            Ok(value::Ranges(list)) => AttributeValue::Ranges(get_ranges(list)?),
            Ok(value::Text(value)) => AttributeValue::Text(text("attribute.value", value, budget)?),
            Err(new) => return Err(unknown("attribute.value", new)),
        };
        attributes.push(Attribute {
            name: text("attribute.name", reader.get_name(), budget)?,
            value,
        });
    }
    Ok(Attributes(attributes))
}

/// Roles in a list of texts.
pub(super) fn roles(
    field: &'static str,
    list: capnp::Result<capnp::text_list::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<BTreeSet<Role>> {
    let texts = strings(field, list, budget)?;
    texts.iter().map(|text| role(field, text)).collect()
}

/// Refused rather than cut down: what was written is within.
pub(super) fn amount(field: &str, milli: u64) -> Result<Scalar> {
    let scalar = Scalar::from_milli(milli);
    if scalar.milli() == milli {
        Ok(scalar)
    } else {
        Err(Fault::invalid(
            field,
            format!("is too large: {milli} thousandths"),
        ))
    }
}
