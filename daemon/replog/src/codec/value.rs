//! The nouns: members, ballots, memberships, entries, and what a disk keeps beside them.

use std::sync::{Arc, OnceLock};

use replog_core::{
    Ballot, Epoch, Incarnation, LogId, Member, Membership, Position, Proposal, ReplicaId, State, Status,
    Value,
};
use wire::replog_capnp::{self as schema, ballot, entry, epoch, member, membership, meta, proposal};

use super::{DecodeError, MEMBERS_MAX, VALUES_MAX, check, options};

type Result<T> = std::result::Result<T, DecodeError>;

pub(super) fn put_member(value: Member, mut builder: member::Builder<'_>) {
    builder.set_replica(value.replica.0);
    builder.set_incarnation(value.incarnation.0);
}

pub(super) fn get_member(reader: member::Reader<'_>) -> Member {
    Member {
        replica: ReplicaId(reader.get_replica()),
        incarnation: Incarnation(reader.get_incarnation()),
    }
}

pub fn put_ballot(value: Ballot, mut builder: ballot::Builder<'_>) {
    builder.set_term(value.term);
    builder.set_replica(value.replica.0);
}

pub fn get_ballot(reader: ballot::Reader<'_>) -> Ballot {
    Ballot {
        term: reader.get_term(),
        replica: ReplicaId(reader.get_replica()),
    }
}

pub(super) fn put_epoch(value: Epoch, mut builder: epoch::Builder<'_>) {
    builder.set_since(value.since.0);
    put_ballot(value.ballot, builder.init_ballot());
}

pub(super) fn get_epoch(reader: epoch::Reader<'_>) -> Result<Epoch> {
    Ok(Epoch {
        since: Position(reader.get_since()),
        ballot: get_ballot(reader.get_ballot()?),
    })
}

fn put_members(members: &[Member], mut list: capnp::struct_list::Builder<'_, member::Owned>) {
    for (at, member) in (0..).zip(members) {
        put_member(*member, list.reborrow().get(at));
    }
}

fn get_members(list: capnp::struct_list::Reader<'_, member::Owned>) -> Result<Vec<Member>> {
    check("members", list.len(), MEMBERS_MAX)?;
    Ok(list.iter().map(get_member).collect())
}

pub fn put_membership(value: &Membership, mut builder: membership::Builder<'_>) {
    builder.set_since(value.since.0);
    builder.set_log(value.log.0);
    put_ballot(value.ballot, builder.reborrow().init_ballot());
    put_members(&value.members, builder.init_members(value.members.len() as u32));
}

/// In order and each once, whatever the sender says: quorums are counted on it.
pub fn get_membership(reader: membership::Reader<'_>) -> Result<Arc<Membership>> {
    let mut members = get_members(reader.get_members()?)?;
    members.sort_unstable();
    members.dedup_by_key(|member| member.replica);
    if members.is_empty() {
        return Err(DecodeError::Missing("members"));
    }
    let since = Position(reader.get_since());
    Ok(Arc::new(Membership {
        log: LogId(reader.get_log()),
        since,
        ballot: get_ballot(reader.get_ballot()?),
        members,
    }))
}

pub(super) fn put_proposal(value: &Proposal, mut builder: proposal::Builder<'_>) {
    builder.set_generation(value.generation);
    put_members(&value.members, builder.init_members(value.members.len() as u32));
}

pub(super) fn get_proposal(reader: proposal::Reader<'_>) -> Result<Arc<Proposal>> {
    let members = get_members(reader.get_members()?)?;
    Ok(Arc::new(Proposal {
        generation: reader.get_generation(),
        members,
    }))
}

pub(super) fn put_status(status: Status) -> schema::Status {
    match status {
        Status::Empty => schema::Status::Empty,
        Status::Starting => schema::Status::Starting,
        Status::Recovering => schema::Status::Recovering,
        Status::Voting => schema::Status::Voting,
    }
}

pub(super) fn get_status(status: std::result::Result<schema::Status, capnp::NotInSchema>) -> Result<Status> {
    Ok(match status.map_err(|_| DecodeError::Unknown("status"))? {
        schema::Status::Empty => Status::Empty,
        schema::Status::Starting => Status::Starting,
        schema::Status::Recovering => Status::Recovering,
        schema::Status::Voting => Status::Voting,
    })
}

pub(super) fn put_entry(value: &Value, mut builder: entry::Builder<'_>) {
    match value {
        Value::Nop => builder.set_nop(()),
        Value::Append(bytes) => builder.set_append(bytes),
        Value::Truncate { to } => builder.set_truncate(to.0),
        Value::Membership(membership) => put_membership(membership, builder.init_membership()),
    }
}

pub(super) fn get_entry(reader: entry::Reader<'_>) -> Result<Value> {
    Ok(match reader.which().map_err(|_| DecodeError::Unknown("entry"))? {
        entry::Nop(()) => Value::Nop,
        entry::Append(bytes) => Value::Append(bytes?.into()),
        entry::Truncate(to) => Value::Truncate { to: Position(to) },
        entry::Membership(membership) => Value::Membership(get_membership(membership?)?),
    })
}

pub fn put_entries(values: &[Value], mut list: capnp::struct_list::Builder<'_, entry::Owned>) {
    for (at, value) in (0..).zip(values) {
        put_entry(value, list.reborrow().get(at));
    }
}

pub fn get_entries(list: capnp::struct_list::Reader<'_, entry::Owned>) -> Result<Vec<Value>> {
    check("values", list.len(), VALUES_MAX)?;
    list.iter().map(get_entry).collect()
}

/// An entry as the store keeps it: a Cap'n Proto message of one segment.
pub fn encode_entry(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_entry_into(value, &mut bytes);
    bytes
}

/// [`encode_entry`] behind what `out` has.
pub fn encode_entry_into(value: &Value, out: &mut Vec<u8>) {
    if let Value::Append(bytes) = value
        && let Some(head) = AppendHead::known()
    {
        return head.encode(bytes, out);
    }
    out.extend_from_slice(&built(value));
}

fn built(value: &Value) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    put_entry(value, message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

/// What stands before the bytes of an appended entry. Nearly all entries are of this kind, and a builder for each would
/// take more time than all else that is done to it.
struct AppendHead {
    /// Up to the bytes, of an entry of one word.
    bytes: Vec<u8>,
}

const WORD: usize = 8;

impl AppendHead {
    /// Learned from the library, once; `None` would mean that it lays messages out otherwise than one after the other.
    fn known() -> Option<&'static Self> {
        static HEAD: OnceLock<Option<AppendHead>> = OnceLock::new();
        HEAD.get_or_init(|| {
            let mark = [0xa5; WORD];
            let mut bytes = built(&Value::Append(mark.as_slice().into()));
            let list = bytes.len().checked_sub(2 * WORD)?;
            // A pointer to the next word: a list of so many bytes.
            let pointer = 1_u64 | (2 | (WORD as u64) << 3) << 32;
            if bytes[list..] != [pointer.to_le_bytes(), mark].concat() {
                return None;
            }
            bytes.truncate(list + WORD);
            Some(AppendHead { bytes })
        })
        .as_ref()
    }

    fn encode(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let words = (self.bytes.len() / WORD - 1 + bytes.len().div_ceil(WORD)) as u32;
        let count = 2 | (bytes.len() as u32) << 3;
        out.reserve(self.bytes.len() + bytes.len() + WORD);
        out.extend_from_slice(&self.bytes);
        // The table: one segment, of so many words. The list pointer's upper half: its length.
        out[start + 4..start + WORD].copy_from_slice(&words.to_le_bytes());
        let upper = out.len() - WORD / 2;
        out[upper..].copy_from_slice(&count.to_le_bytes());
        out.extend_from_slice(bytes);
        out.resize(start + WORD + words as usize * WORD, 0);
    }
}

pub fn decode_entry(mut bytes: &[u8]) -> Result<Value> {
    let limits = options(bytes.len());
    let message = capnp::serialize::read_message_from_flat_slice(&mut bytes, limits)?;
    get_entry(message.get_root()?)
}

/// What belongs to no position, as the store keeps it.
pub fn encode_meta(state: &State) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let mut builder: meta::Builder<'_> = message.init_root();
    put_member(state.member, builder.reborrow().init_member());
    builder.set_status(put_status(state.status));
    if let Some(proposal) = &state.proposal {
        put_proposal(proposal, builder.reborrow().init_proposal());
    }
    if let Some(membership) = &state.membership {
        put_membership(membership, builder.reborrow().init_membership());
    }
    put_ballot(state.promised, builder.reborrow().init_promised());
    put_epoch(state.accepted, builder.init_accepted());
    capnp::serialize::write_message_to_words(&message)
}

/// A state without positions: what [`encode_meta`] kept.
pub fn decode_meta(mut bytes: &[u8]) -> Result<State> {
    let limits = options(bytes.len());
    let message = capnp::serialize::read_message_from_flat_slice(&mut bytes, limits)?;
    let reader: meta::Reader<'_> = message.get_root()?;
    let proposal = if reader.has_proposal() {
        Some(get_proposal(reader.get_proposal()?)?)
    } else {
        None
    };
    let membership = if reader.has_membership() {
        Some(get_membership(reader.get_membership()?)?)
    } else {
        None
    };
    Ok(State {
        member: get_member(reader.get_member()?),
        status: get_status(reader.get_status())?,
        proposal,
        membership,
        promised: get_ballot(reader.get_promised()?),
        accepted: get_epoch(reader.get_accepted()?)?,
        ..State::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_entries_are_laid_out_as_the_library_does() {
        for length in (0..70).chain([1000, 1024, 4096, 8000]) {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
            let value = Value::Append(bytes.into());
            let encoded = encode_entry(&value);
            assert_eq!(decode_entry(&encoded).unwrap(), value, "{length} bytes");
            // An empty list's pointer may point anywhere.
            if length > 0 {
                assert_eq!(encoded, built(&value), "{length} bytes");
            }
        }
        let large = Value::Append(vec![7; 1 << 20].into());
        assert_eq!(decode_entry(&encode_entry(&large)).unwrap(), large);
    }
}
