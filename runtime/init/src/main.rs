//! `bulkhead-init`: launcher and pid 1 of containers. Started only by the agent, from a sealed memory
//! file. All of it is in `container::init`; this crate exists to be linked small and static.

fn main() {
    container::init::main()
}
