//! Generates the Rust side of the schemas. Needs Debian's `capnproto` and `libcapnp-dev` (stream.capnp).

fn main() {
    capnpc::CompilerCommand::new()
        .src_prefix("schema")
        .import_path("/usr/include")
        .file("schema/value.capnp")
        .file("schema/agent.capnp")
        .file("schema/checkpoint.capnp")
        .file("schema/replog.capnp")
        .file("schema/registry.capnp")
        .file("schema/master.capnp")
        .run()
        .expect("compile capnp schemas: is `capnproto` and `libcapnp-dev` installed? run scripts/setup");
}
