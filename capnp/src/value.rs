//! The pieces that every noun is made of: texts, lists, optional numbers. Each decoder gets the
//! name of the field it reads; [`within`] puts the parent's name in front on the way out.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use capnp::text;
use model::{ContainerId, ContainerName, Fault, Limit};

use crate::bounds::{TextBudget, check_length};
use crate::value_capnp::{key_value, limit_u64, optional_u64};

/// `mem` at fault inside `limits` is `limits.mem`.
pub(crate) fn within(mut fault: Fault, parent: &str) -> Fault {
    fault.field = Some(match fault.field {
        Some(field) => format!("{parent}.{field}"),
        None => parent.to_owned(),
    });
    fault
}

/// A pointer that leads nowhere, or to something else.
pub(crate) fn malformed(field: &str, error: &capnp::Error) -> Fault {
    Fault::invalid(field, format!("is malformed: {error}"))
}

/// An enum or union value that our schema does not have: the peer is newer.
pub(crate) fn unknown(field: &str, value: capnp::NotInSchema) -> Fault {
    Fault::invalid(
        field,
        format!("has value {}, which this version does not know", value.0),
    )
    .remedy("use the same version of bulkhead on both sides")
}

pub(crate) fn some<T>(field: &str, value: capnp::Result<T>) -> Result<T, Fault> {
    value.map_err(|error| malformed(field, &error))
}

pub(crate) fn text(
    field: &str,
    value: capnp::Result<text::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<String, Fault> {
    let value = some(field, value)?;
    budget.take(field, value.as_bytes().len())?;
    match value.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(Fault::invalid(field, format!("is not UTF-8: {error}"))),
    }
}

/// Empty is none.
pub(crate) fn optional_text(
    field: &str,
    value: capnp::Result<text::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<Option<String>, Fault> {
    Ok(Some(text(field, value, budget)?).filter(|text| !text.is_empty()))
}

pub(crate) fn optional_path(
    field: &str,
    value: capnp::Result<text::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<Option<PathBuf>, Fault> {
    Ok(optional_text(field, value, budget)?.map(PathBuf::from))
}

/// The bytes of a path. One that is not UTF-8 is sent as it is, so that the other side refuses it by
/// name instead of using a different one.
pub(crate) fn path(path: &Path) -> text::Reader<'_> {
    text::Reader(path.as_os_str().as_bytes())
}

pub(crate) fn container_id(
    field: &str,
    value: capnp::Result<text::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<ContainerId, Fault> {
    let text = text(field, value, budget)?;
    ContainerId::try_from(text).map_err(|error| Fault::invalid(field, error.to_string()))
}

/// Empty is none.
pub(crate) fn container_name(
    field: &str,
    value: capnp::Result<text::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<Option<ContainerName>, Fault> {
    let Some(text) = optional_text(field, value, budget)? else {
        return Ok(None);
    };
    ContainerName::try_from(text)
        .map(Some)
        .map_err(|error| Fault::invalid(field, error.to_string()))
}

pub(crate) fn optional_number(
    field: &str,
    value: capnp::Result<optional_u64::Reader<'_>>,
) -> Result<Option<u64>, Fault> {
    match some(field, value)?.which() {
        Ok(optional_u64::None(())) => Ok(None),
        Ok(optional_u64::Value(value)) => Ok(Some(value)),
        Err(new) => Err(unknown(field, new)),
    }
}

pub(crate) fn limit(
    field: &str,
    value: capnp::Result<limit_u64::Reader<'_>>,
) -> Result<Option<Limit<u64>>, Fault> {
    match some(field, value)?.which() {
        Ok(limit_u64::Unset(())) => Ok(None),
        Ok(limit_u64::Max(())) => Ok(Some(Limit::Max)),
        Ok(limit_u64::Value(value)) => Ok(Some(Limit::Value(value))),
        Err(new) => Err(unknown(field, new)),
    }
}

pub(crate) fn set_limit(value: Limit<u64>, mut builder: limit_u64::Builder<'_>) {
    match value {
        Limit::Max => builder.set_max(()),
        Limit::Value(value) => builder.set_value(value),
    }
}

pub(crate) fn texts(
    field: &str,
    list: capnp::Result<capnp::text_list::Reader<'_>>,
    max: u32,
    budget: &mut TextBudget,
) -> Result<Vec<String>, Fault> {
    let list = some(field, list)?;
    check_length(field, list.len() as usize, max)?;
    let mut texts = Vec::with_capacity(list.len() as usize);
    for (index, value) in list.iter().enumerate() {
        texts.push(text(&index.to_string(), value, budget).map_err(|fault| within(fault, field))?);
    }
    Ok(texts)
}

pub(crate) fn set_texts<'a>(
    texts: impl ExactSizeIterator<Item = &'a str>,
    mut builder: capnp::text_list::Builder<'_>,
) {
    for (index, text) in texts.enumerate() {
        builder.set(index as u32, text);
    }
}

pub(crate) fn pairs(
    field: &str,
    list: capnp::Result<capnp::struct_list::Reader<'_, key_value::Owned>>,
    max: u32,
    budget: &mut TextBudget,
) -> Result<Vec<(String, String)>, Fault> {
    let list = some(field, list)?;
    check_length(field, list.len() as usize, max)?;
    let mut pairs = Vec::with_capacity(list.len() as usize);
    for (index, pair) in list.iter().enumerate() {
        let mut read = || {
            Ok((
                text("key", pair.get_key(), budget)?,
                text("value", pair.get_value(), budget)?,
            ))
        };
        pairs.push(read().map_err(|fault| within(within(fault, &index.to_string()), field))?);
    }
    Ok(pairs)
}

/// As [`pairs`], and a key twice is refused: to keep either would be a guess.
pub(crate) fn map(
    field: &str,
    list: capnp::Result<capnp::struct_list::Reader<'_, key_value::Owned>>,
    max: u32,
    budget: &mut TextBudget,
) -> Result<BTreeMap<String, String>, Fault> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs(field, list, max, budget)? {
        if map.contains_key(&key) {
            return Err(Fault::invalid(field, format!("holds {key:?} twice")));
        }
        map.insert(key, value);
    }
    Ok(map)
}

pub(crate) fn set_pairs<'a>(
    pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    mut builder: capnp::struct_list::Builder<'_, key_value::Owned>,
) {
    for (index, (key, value)) in pairs.enumerate() {
        let mut entry = builder.reborrow().get(index as u32);
        entry.set_key(key);
        entry.set_value(value);
    }
}

/// Two functions between a model enum and the schema's, variant by variant.
macro_rules! enum_pair {
    ($encode:ident, $decode:ident, $model:ty, $wire:ty, [$($variant:ident),+ $(,)?]) => {
        pub(crate) fn $encode(value: $model) -> $wire {
            match value { $(<$model>::$variant => <$wire>::$variant,)+ }
        }
        pub(crate) fn $decode(
            field: &str,
            value: Result<$wire, capnp::NotInSchema>,
        ) -> Result<$model, model::Fault> {
            match value {
                $(Ok(<$wire>::$variant) => Ok(<$model>::$variant),)+
                Err(new) => Err($crate::value::unknown(field, new)),
            }
        }
    };
}
pub(crate) use enum_pair;
