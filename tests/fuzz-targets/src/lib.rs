//! What every parser of bytes from outside must keep to, whatever the bytes: one function per parser.
//!
//! Contract of a target: it takes any bytes, panics when a rule is broken, and leaves nothing behind. `fuzz/` makes a
//! libFuzzer program of each, and `tests/replay.rs` runs each over the kept corpus with the ordinary compiler.
//! The rules beyond "does not panic" stand at the head of each module.

pub mod accounts;
pub mod arguments;
pub mod channel;
pub mod checkpoint;
pub mod configuration;
pub mod endpoints;
pub mod feed;
pub mod http_server;
pub mod kernel_files;
pub mod log_batch;
pub mod log_link;
pub mod log_message;
pub mod log_record;
pub mod log_segment;
pub mod master_messages;
pub mod names;
pub mod output_index;
pub mod plan;
pub mod registry;
pub mod resources;
pub mod rpc_frames;
pub mod rpc_server;
pub mod statistics;
pub mod units;
pub mod wait_status;
pub mod wire_values;

/// One target: the name of its program, corpus and artifacts, and what it runs.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All of them, by name.
pub const TARGETS: &[Target] = &[
    target("accounts", accounts::run),
    target("arguments", arguments::run),
    target("channel", channel::run),
    target("checkpoint", checkpoint::run),
    target("clone_request", channel::request),
    target("configuration", configuration::run),
    target("endpoints", endpoints::run),
    target("http_server", http_server::run),
    target("kernel_files", kernel_files::run),
    target("log_batch", log_batch::run),
    target("log_link", log_link::run),
    target("log_message", log_message::run),
    target("log_record", log_record::run),
    target("log_segment", log_segment::run),
    target("master_messages", master_messages::run),
    target("names", names::run),
    target("output_index", output_index::run),
    target("plan", plan::run),
    target("registry", registry::run),
    target("resources", resources::run),
    target("rpc_frames", rpc_frames::run),
    target("rpc_server", rpc_server::run),
    target("statistics", statistics::run),
    target("units", units::run),
    target("wait_status", wait_status::run),
    target("wire_values", wire_values::run),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The first byte chooses; the rest is what is parsed.
fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (*first, rest))
}

/// Texts arrive as texts: what is not UTF-8 is refused by the standard library before our parsers see it.
fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}
