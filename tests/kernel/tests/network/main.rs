//! Ports, addresses and traffic of containers, with real programs on the real kernel.

mod ceilings;
mod host_ports;
mod mapped;
mod programs;
mod restarts;
mod stage;
