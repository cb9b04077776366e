//! Ports, addresses and traffic of containers, with real programs on the real kernel.

mod host_ports;
mod mapped;
