//! What finished containers left on disk.

use model::{Fault, Millis, Removed};

use crate::bounds::{CONTAINERS_MAX, TextBudget, check_length};
use crate::value::{container_id, container_name, optional_text, some, within};
use crate::value_capnp::removed;

/// Writes entries in order; the list must have been made with as many.
pub fn encode_list(entries: &[Removed], mut builder: capnp::struct_list::Builder<'_, removed::Owned>) {
    for (index, entry) in entries.iter().enumerate() {
        let mut to = builder.reborrow().get(index as u32);
        to.set_id(entry.id.as_str());
        if let Some(name) = &entry.name {
            to.set_name(name.as_str());
        }
        to.set_age_ms(entry.age.get());
        to.set_bytes(entry.bytes);
        to.set_files(entry.files);
        to.set_directories(entry.directories);
        if let Some(trouble) = &entry.trouble {
            to.set_trouble(trouble);
        }
    }
}

pub fn decode_list(
    list: capnp::Result<capnp::struct_list::Reader<'_, removed::Owned>>,
) -> Result<Vec<Removed>, Fault> {
    const FIELD: &str = "removed";
    let list = some(FIELD, list)?;
    check_length(FIELD, list.len() as usize, CONTAINERS_MAX)?;
    let mut entries = Vec::with_capacity(list.len() as usize);
    for (index, entry) in list.iter().enumerate() {
        entries.push(decode(entry).map_err(|fault| within(within(fault, &index.to_string()), FIELD))?);
    }
    Ok(entries)
}

fn decode(reader: removed::Reader<'_>) -> Result<Removed, Fault> {
    let budget = &mut TextBudget::default();
    Ok(Removed {
        id: container_id("id", reader.get_id(), budget)?,
        name: container_name("name", reader.get_name(), budget)?,
        age: Millis(reader.get_age_ms()),
        bytes: reader.get_bytes(),
        files: reader.get_files(),
        directories: reader.get_directories(),
        trouble: optional_text("trouble", reader.get_trouble(), budget)?,
    })
}
